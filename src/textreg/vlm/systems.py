"""One question about one picture, to a checkpoint or to a system of a run: the work of ``textreg ask``.

A folder with ``tune/`` and ``align/`` is a run, and its systems are asked through their adapters; anything else is a
LLaVA checkpoint, a folder or a hub id.  The picture is opened as untrusted input (:mod:`textreg.data.images`).

Use: ``answer, label = ask("photo.png", "¿Qué hay en la imagen?", "runs/laptop")``.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from textreg.errors import InputError

if TYPE_CHECKING:
    from textreg.fidelity.labels import Label


def ask(
    image: str | Path, prompt: str, model: str, system: str = "TR+M", max_new_tokens: int = 64
) -> tuple[str, "Label"]:
    """The greedy answer and its identified language.

    Raises :class:`InputError` for a picture, a model, a system or a prompt that cannot be used.
    """
    from textreg.compute import set_up
    from textreg.data import images
    from textreg.data.images import ImageTable
    from textreg.evaluation import answering
    from textreg.fidelity.identifiers import open_identifier
    from textreg.vlm import adapters, assembly, features, generation
    from textreg.vlm.sweep import scaled_adapter

    if not prompt.strip():
        raise InputError("the prompt is empty; ask something, in the language you want the answer in")
    picture = images.open_image(image)
    compute = set_up(1)
    run = Path(model)
    with ExitStack() as stack:
        if (run / "align" / "base.json").is_file():
            which = answering.system(run, system)
            vlm, processor = assembly.load_aligned(run / "align", device=compute.device)
            if which.arm:
                vlm = adapters.load_adapter(vlm, run / "tune" / which.arm / "adapter")
                stack.enter_context(scaled_adapter(vlm, which.lam))
        else:
            vlm, processor = assembly.load_vlm(model, device=compute.device)
        table = ImageTable({"asked": images.encode_png(picture)}, {}, Path())
        seen = features.open_features(adapters.plain(vlm), processor, table, ids=["asked"])
        request = generation.Request(f"<image>\n{prompt}", "asked")
        found = generation.answer(vlm, processor, [request], seen, max_new_tokens=max_new_tokens)[0].text
    return found, open_identifier("py3langid").identify([found])[0]
