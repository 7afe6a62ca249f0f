"""The shipped micro backbones: where they lie, what they are, and whether they are whole.

``shipped`` is the one that every default names; ``shipped-1`` and so on are the same training from other seeds.
``manifest.json`` beside the two checkpoints names the seed, steps, versions and hardware of their making, their
held-out scores, and the SHA-256 of every file.  A damaged or missing file is named before anything is computed with
it.

Use: ``check(FOLDER)``.
"""

import hashlib
import json
import platform
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.errors import InputError
from textreg.settings import Backbone

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionModel

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = "shipped"
FOLDER = WEIGHTS / SHIPPED
MANIFEST = "manifest.json"
REBUILD = "papermill notebooks/00_backbone.ipynb out.ipynb -p out src/textreg/micro/weights/shipped"


def is_shipped(name: str) -> bool:
    """Whether a model's name means one of ours, whether or not it is there."""
    return bool(re.fullmatch(rf"{SHIPPED}(-\d+)?", name))


def files(folder: str | Path) -> list[Path]:
    """Every file of the two checkpoints, the manifest left out."""
    return sorted(path for part in ("llm", "tower") for path in (Path(folder) / part).rglob("*") if path.is_file())


def save(
    folder: str | Path,
    llm: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
    tower: "SiglipVisionModel",
    settings: Backbone,
    held_out: dict[str, Any],
) -> None:
    """Write both checkpoints as ordinary Hugging Face folders, in half precision, and the manifest.

    ``held_out``: the scores before any tuning; ``llm`` and ``questions`` are lists of rows, ``tower`` a share by name.
    """
    from transformers import SiglipImageProcessorPil

    folder = Path(folder)
    llm.half().save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    tower.half().save_pretrained(folder / "tower")
    side = {"height": settings.image_size, "width": settings.image_size}
    processor = SiglipImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(folder / "tower")
    manifest = {
        "rebuild": REBUILD,
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("run", "out", "threads")},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "pillow")},
        "hardware": f"{platform.machine()}, {settings.threads} thread(s), device {settings.device}",
        "held_out": held_out,
        "sha256": {path.relative_to(folder).as_posix(): digest(path) for path in files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(folder: str | Path = FOLDER) -> dict[str, Any]:
    """The manifest, once every file has been found to be what it says.

    Raises :class:`InputError` naming the first file that is missing or damaged, and how to get it back.
    """
    folder = Path(folder)
    cure = f"install the package again, or rebuild it: {REBUILD}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"shipped backbone: {MANIFEST} is missing or damaged; {cure}") from None
    for name, wanted in expected.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"shipped backbone: {name} is missing; {cure}")
        if digest(path) != wanted:
            raise InputError(f"shipped backbone: {name} is damaged; {cure}")
    return manifest
