"""Systems: what ``backbone``, ``TR`` or ``TR+M`` of a run is, opened to be asked.

A merged system is the adapter turned down to its lambda, which equals the exported merge and costs no second model;
the backbone is the aligned model without an adapter.  :func:`ask` is the work of ``textreg ask``: a folder with
``align/`` is a run, anything else a LLaVA checkpoint, a folder or a hub id; the picture is opened as untrusted input
(:mod:`textreg.data.images`).

Use: ``model, processor, seen = open_system("runs/laptop", "TR", ids=["test-00000"])``;
``ask("photo.png", "¿Qué hay en la imagen?", "runs/laptop")``.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.compute import set_up
from textreg.data.images import ImageTable, encode_png, open_image
from textreg.errors import InputError, did_you_mean, quoted
from textreg.vlm import assembly
from textreg.vlm.adapters import load_adapter, scaled_adapter
from textreg.vlm.features import Features, open_features
from textreg.vlm.generation import Request, answer

if TYPE_CHECKING:
    from peft import PeftModel
    from PIL.Image import Image
    from transformers import PreTrainedModel

BACKBONE = "backbone"
MERGED = "+M"


@dataclass(frozen=True)
class System:
    """A row of the results: an arm's adapter at a lambda; ``arm`` empty for the aligned, untuned model."""

    name: str
    arm: str = ""
    lam: float = 1.0

    @property
    def part(self) -> str:
        """File name of its answers."""
        return f"{self.name}@{self.lam:g}.jsonl"


def find_system(run: str | Path, name: str) -> System:
    """The system called ``name`` in a run: ``backbone``, an arm (``TR``) or a merged arm (``TR+M``) at its chosen
    lambda.

    Raises :class:`InputError` for an arm that is not tuned, or not merged, in this run.
    """
    if name == BACKBONE:
        return System(BACKBONE)
    arm = name.removesuffix(MERGED)
    tuned = sorted(path.parent.name for path in Path(run).glob("tune/*/adapter"))
    if arm not in tuned:
        raise InputError(f"system {name!r}: no tuned arm {arm!r} in {run}{did_you_mean(arm, tuned)}; run tune first")
    return System(name, arm, chosen_lambda(run, arm) if name != arm else 1.0)


def chosen_lambda(run: str | Path, arm: str) -> float:
    """The lambda in 0..1 that ``04_merge`` chose for an arm on the validation split.

    Raises :class:`InputError` where ``choice.json`` is missing or damaged, or holds no such lambda.
    """
    path = Path(run) / "merge" / f"{arm}{MERGED}" / "choice.json"
    if not path.is_file():
        raise InputError(f"{path} is missing; run the stage merge for arm {arm} first")
    cure = f"run the stage merge for arm {arm} again with --force"
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({str(error).partition(chr(10))[0][:120]}); {cure}") from None
    lam = content.get("lambda") if isinstance(content, dict) else None
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 <= lam <= 1:
        raise InputError(f"{path}: lambda = {quoted(lam)}, a number from 0 to 1 is expected; {cure}")
    return float(lam)


def open_system(
    run: str | Path, arm: str, ids: Sequence[str], *, precision: str = "fp32", device: str = "cpu"
) -> tuple["PreTrainedModel | PeftModel", Any, Features]:
    """Model, processor and features of the images ``ids``: the aligned model of a run, with the adapter of ``arm``
    unless that is empty.

    The adapter has its full strength; other lambdas are :func:`textreg.vlm.adapters.scaled_adapter`.
    """
    run = Path(run)
    model, processor = assembly.load_aligned(run / "align", precision=precision, device=device)
    images = ImageTable.read(run / "prepare_data" / "images.parquet", ids=ids)
    seen = open_features(model, processor, images, ids=ids)
    return load_adapter(model, run / "tune" / arm / "adapter") if arm else model, processor, seen


def systems_of(run: str | Path) -> list[str]:
    """Names of every system of a run: the backbone, each tuned arm, and each that was merged."""
    tuned = sorted(path.parent.name for path in Path(run).glob("tune/*/adapter"))
    merged = sorted(path.parent.name for path in Path(run).glob(f"merge/*{MERGED}/choice.json"))
    return [BACKBONE, *tuned, *merged]


def is_run(model: str | Path) -> bool:
    """Whether a folder is a run, whose systems are told apart, and not a checkpoint."""
    return (Path(model) / "align" / "base.json").is_file()


def ask_systems(
    image: str | Path, prompt: str, run: str | Path, names: Sequence[str] | None = None, max_new_tokens: int = 64
) -> dict[str, str]:
    """System -> its greedy answer; ``names``: which systems of the run, all by default.

    Raises :class:`InputError` for a picture, a run, a system or a prompt that cannot be used.
    """
    picture, compute, run = _picture(image, prompt), set_up(1), Path(run)
    asked = [find_system(run, name) for name in names or systems_of(run)]
    told: dict[str, str] = {}
    seen = None  # what the frozen tower sees is the same for every system
    for arm in dict.fromkeys(which.arm for which in asked):
        vlm, processor = assembly.load_aligned(run / "align", device=compute.device)
        seen = seen or _seen(picture, vlm, processor)
        if arm:
            vlm = load_adapter(vlm, run / "tune" / arm / "adapter")
        for which in asked:
            if which.arm == arm:
                with scaled_adapter(vlm, which.lam) if arm else nullcontext():
                    told[which.name] = _answer_about(prompt, vlm, processor, seen, max_new_tokens)
    return {which.name: told[which.name] for which in asked}


def ask(image: str | Path, prompt: str, model: str, name: str = "TR+M", max_new_tokens: int = 64) -> str:
    """The greedy answer of a checkpoint, or of the system ``name`` of a run.

    Raises :class:`InputError` for a picture, a model, a system or a prompt that cannot be used.
    """
    if is_run(model):
        return ask_systems(image, prompt, model, [name], max_new_tokens)[name]
    picture = _picture(image, prompt)
    vlm, processor = assembly.load_vlm(model, device=set_up(1).device)
    return _answer_about(prompt, vlm, processor, _seen(picture, vlm, processor), max_new_tokens)


def _picture(image: str | Path, prompt: str) -> "Image":
    if not prompt.strip():
        raise InputError("the prompt is empty; ask something, in the language you want the answer in")
    return open_image(image)


def _seen(picture: "Image", vlm: Any, processor: Any) -> Features:
    table = ImageTable({"asked": encode_png(picture)}, {}, Path())
    return open_features(vlm, processor, table, ids=["asked"])


def _answer_about(prompt: str, vlm: Any, processor: Any, seen: Features, max_new_tokens: int) -> str:
    most = vlm.config.get_text_config().max_position_embeddings
    if (length := len(processor.tokenizer(prompt, verbose=False)["input_ids"])) >= most:
        raise InputError(
            f"the prompt has {length} tokens, the model reads {most} with its picture; ask in fewer words"
        )
    request = Request(f"<image>\n{prompt}", "asked")
    return answer(vlm, processor, [request], seen, max_new_tokens=max_new_tokens)[0].text
