"""What a run on real weights takes, known before it starts: files to fetch, models, memory, disk and work.

The hub says what it would send (a dry run of its client), and the models say what they hold when they are built from
their configurations on the meta device, where a weight takes no memory.  What neither tells is marked, not guessed:
room for activations is found when a training begins (:mod:`textreg.training.probing`).

Try it: ``textreg run --profile gpu --dry-run``.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants
from rich.table import Table

from textreg.data import hub
from textreg.errors import InputError
from textreg.files import require_room
from textreg.runs import profiles
from textreg.runs.profiles import Profile
from textreg.settings import Align, PrepareData, Tune

WIDTH = {"fp32": 4.0, "bf16": 2.0, "4bit": 0.56}  # bytes a weight; 4 bits and their constants (Dettmers et al. 2023)
TRAINED = 16  # bytes a trained weight: itself, its gradient and Adam's two moments in fp32
PICTURE = 100_000  # bytes, assumed
RATE = 139e12  # useful FLOP/s of the 2B profile's step on an H200, measured (bench/results/accelerator.json)
SMALL = 2**29  # bytes of a table of pictures that is read whole; of a larger one there is a second, mapped copy
UNREACHED = "the hub was not reached"
IDENTIFIERS = {"glotlid": "cis-lmu/glotlid"}


@dataclass(frozen=True)
class Need:
    """One thing that a run needs, in bytes; None where nobody says.  ``stage``: the first that needs it; on disk, the
    folder of the run where it goes."""

    what: str
    size: float | None
    why: str
    stage: str


@dataclass(frozen=True)
class Budget:
    """Everything that is printed.  ``work``: one line, empty where the models are not known."""

    profile: str
    downloads: tuple[Need, ...]
    memory: tuple[Need, ...]
    disk: tuple[Need, ...]
    work: str


@dataclass(frozen=True)
class Models:
    """Weights of the whole model, of its language model's layers that take an adapter of rank 1, of a projector that
    is trained; numbers kept of one picture."""

    whole: int
    adapter: int
    projector: int
    features: int


def estimate(profile: Profile, overrides: Sequence[str] = ()) -> Budget:
    """The budget of a profile.  Nothing but configuration files is fetched."""
    found = {unit: profiles.resolve(profile, unit.stage, unit.arm, overrides) for unit in profile.units}
    # Of a profile that leaves these two stages to another run, the settings still say what is read.
    data: Any = profiles.resolve(profile, "prepare_data", overrides=overrides)
    align: Any = profiles.resolve(profile, "align", overrides=overrides)
    tunes = [settings for settings in found.values() if isinstance(settings, Tune)]
    merges = sum(unit.stage == "merge" for unit in found)
    identifiers = {getattr(settings, "identifier", "") for settings in found.values()} & set(IDENTIFIERS)
    downloads = list(_downloads(data, align, [IDENTIFIERS[name] for name in identifiers]))

    asked = data.validation_questions + data.test_questions if data.visual_check else 0
    pictures = PICTURE * (data.validation_images + data.test_images + asked)
    pictures += 0 if data.image_folder else PICTURE * (data.align_rows + data.visual_rows)
    disk = [Need("pictures", pictures, f"{PICTURE:,} bytes each, assumed", "prepare_data")]
    if pictures > SMALL:
        disk.append(Need("pictures, mapped", pictures, "a second copy, read without being held", "prepare_data"))
    if align.vlm:
        _require_supported(align.vlm)
    try:
        models = _models(align, stored=any(need.why == UNREACHED for need in downloads))
    except (InputError, OSError, ValueError, KeyError, AttributeError) as error:
        told = " ".join(str(error).split())[:160] or type(error).__name__
        memory = [Need("model", None, f"not counted: {told}", "align")]
        return Budget(profile.name, tuple(downloads), tuple(memory), tuple(disk), "")
    weights = models.whole * WIDTH[align.precision]
    memory = [Need("weights", weights, f"{models.whole:,} in {align.precision}", "align")]
    if models.features and any(settings.cache_features for settings in [align, *tunes]):
        kept = (data.align_rows + data.visual_rows) * models.features * WIDTH["bf16"]
        disk.append(Need("features of the frozen tower", kept, "of every training picture, bf16", "features"))
    for tune in {tune.rank: tune for tune in tunes}.values():
        trained = models.adapter * tune.rank + models.projector
        why = f"{trained:,} trained weights, rank {tune.rank}, with Adam; activations come on top"
        memory.append(Need("training state", TRAINED * trained, why, "tune"))
    if merges:
        disk.append(Need("merged checkpoints", merges * models.whole * WIDTH["bf16"], f"{merges}, bf16", "merge"))
    tokens = sum(s.steps * s.batch_size * s.max_length for s in [align, *tunes])
    flop = tokens * 4.0 * models.whole  # 2 forward and 2 backward: frozen weights have no gradients
    work = (
        f"training: at most {flop / 1e18:,.1f} EFLOP (rows of max_length), {flop / RATE / 3600:,.1f} h at the rate "
        "measured on an H200; answers not counted"
    )
    return Budget(profile.name, tuple(downloads), tuple(memory), tuple(disk), work)


def _downloads(data: PrepareData, align: Align, identifiers: Sequence[str]) -> Iterator[Need]:
    """Every hub repository that a profile names, with the bytes that are not stored here yet."""
    from textreg.data import crossmodal  # with pandas, for which no other start of a run waits

    wanted: list[tuple[str, Literal["model", "dataset"], str]]
    wanted = [(name, "model", "align") for name in ([align.vlm] if align.vlm else [align.llm, align.tower])]
    wanted += [(name, "model", "merge") for name in identifiers]
    sets = dict.fromkeys(
        [*[data.align_data] * (data.align_rows > 0), *data.visual_data, *data.text_data, data.evaluation_data]
        + [data.visual_check] * bool(data.visual_check)
    )
    wanted += [(name, "dataset", "prepare_data") for name in sets]
    reached = True
    for name, kind, stage in wanted:
        if name.startswith("shipped") or hub.parse(name).local:
            continue
        try:
            some = crossmodal.files(data.languages) if name == data.evaluation_data else ()
            files = hub.to_fetch(name, kind=kind, files=some) if reached else None
            why = UNREACHED if files is None else f"{len(files)} files to fetch"
        except InputError as error:
            reached = "was not reached" not in str(error)
            files, why = None, str(error) if reached else UNREACHED
        yield Need(name, None if files is None else sum(files.values()), why, stage)


def _require_supported(vlm: str) -> None:
    """Refuse a published model from its configuration alone; one that is not reached is among what is to fetch."""
    from textreg.vlm.published import Unsupported, check

    try:
        check(vlm)
    except Unsupported:
        raise
    except InputError:
        return


def _models(align: Align, *, stored: bool) -> Models:
    """The models of a profile, built without weights; ``stored``: from what is stored here alone.

    Raises what transformers does where it cannot.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    def config(name: str) -> Any:
        parts = hub.parse(name)
        place = str(Path(parts.base).expanduser()) if parts.local else parts.base
        return AutoConfig.from_pretrained(place, revision=parts.revision, local_files_only=stored)

    with torch.device("meta"):
        if align.vlm:
            model = AutoModelForImageTextToText.from_config(config(align.vlm))
            language, tower, projector = model.get_decoder(), model.config.vision_config, 0  # its own stays as it is
            whole = sum(p.numel() for p in model.parameters())
        else:
            seen = config(align.tower)
            vision = AutoModel.from_config(getattr(seen, "vision_config", seen))
            model = AutoModelForCausalLM.from_config(config(align.llm))
            language, tower = model.get_decoder(), vision.config
            projector = language.config.hidden_size * (tower.hidden_size + language.config.hidden_size + 2)
            whole = sum(p.numel() for part in (model, vision) for p in part.parameters()) + projector
    linear = [module for module in language.modules() if isinstance(module, torch.nn.Linear)]
    adapter = sum(module.in_features + module.out_features for module in linear)
    kept = not align.vlm or model.config.model_type == "llava"  # of other families the tower runs in every step
    features = (tower.image_size // tower.patch_size) ** 2 * tower.hidden_size if kept else 0
    return Models(whole, adapter, projector, features)


def tables(budget: Budget) -> Iterator[Table | str]:
    """The budget for a terminal."""
    for title, needs in (("To fetch", budget.downloads), ("Memory", budget.memory), ("On disk", budget.disk)):
        least = "at least " if any(need.size is None for need in needs) else ""
        total = sum(need.size or 0 for need in needs) / 1e9
        table = Table("what", "GB", "why", title=f"{title} ({budget.profile}): {least}{total:,.1f} GB")
        for need in needs:
            table.add_row(need.what, "?" if need.size is None else f"{need.size / 1e9:,.2f}", need.why)
        yield table
    if budget.work:
        yield budget.work


def require_disk(budget: Budget, run: Path, stages: Iterable[str], least: int) -> None:
    """Refuse a run of ``stages`` whose budget does not fit the disk of ``run`` or that of the hub's cache.

    ``least``: bytes asked for in any case.  Raises :class:`InputError` naming the folder, what is free and the cure.
    """
    stages = set(stages)
    models = bool(stages - {"prepare_data", "figures"})
    stages |= {"features"} if stages & {"align", "tune"} else set()
    for_run = least + sum(_left(need, run) for need in budget.disk if need.stage in stages)
    fetched = [need for need in budget.downloads if (need.stage in stages if need.stage == "prepare_data" else models)]
    for_cache, cache = sum(int(need.size or 0) for need in fetched), Path(constants.HF_HUB_CACHE)
    if for_cache and _device(run) == _device(cache):
        cure = f"choose another folder with --run, or set HF_HOME (downloads go to {cache})"
        require_room(run, for_run + for_cache, cure)
        return
    require_room(run, for_run)
    if for_cache:
        require_room(cache, for_cache, "set HF_HOME to a folder on a larger disk")


def _left(need: Need, run: Path) -> int:
    """Bytes of a need that an earlier attempt has not written yet."""
    files = [path for path in (run / need.stage).rglob("*") if path.is_file() and not path.is_symlink()]
    return max(0, int(need.size or 0) - sum(path.stat().st_size for path in files))


def _device(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return os.stat(folder).st_dev
