"""What a served model is asked: the same images in every language, each as shown, blank, and told as text.

Three sets.  *Scenes* need no data: rendered shapes with exact references in the project's languages.  A *folder* holds
anyone's images, and in ``captions.jsonl`` (``image``, ``language``, ``caption``) what the text arm tells in their
place; without it there is no text arm, and that is said.  *Crossmodal-3600* comes from a hub id or a local copy.  Not
obvious: images are decoded when the set is made, so that a broken file stops the run before anything is paid for, and
again when they are sent, so that memory does not grow with the set.

Use: ``probe_set("", ["en", "es"], 24)``, ``probe_set("holiday/", ["de"], 100)``.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from textreg.data import crossmodal
from textreg.data.codes import IN_DATA, language_code, named_language
from textreg.data.images import blank_like, encode_png, find_images, open_image, shrink
from textreg.data.requests import request_arms
from textreg.display import well_formed
from textreg.errors import InputError, did_you_mean
from textreg.scenes import grammar, instructions, languages
from textreg.scenes import scene as scenes
from textreg.serve.sources import rows

CAPTIONS = "captions.jsonl"
SIDE = 224  # of a rendered scene, in pixels
LONGEST = 1024  # side of an image as it is sent, in pixels
ARMS = ("image", "blank", "text")


@dataclass(frozen=True)
class SentPicture:
    """An image as it will be sent; equal by content.  ``source``: a file, or encoded bytes."""

    digest: str
    name: str = field(compare=False)
    source: Path | bytes = field(compare=False, repr=False)
    blank: bool = False


@dataclass(frozen=True)
class Probe:
    """One request; ``prompt`` and ``reference`` as in ``requests.parquet``, ``picture`` None in the text arm."""

    item_id: str
    arm: str
    task: str
    language: str
    prompt: str
    reference: str
    picture: SentPicture | None


@dataclass(frozen=True)
class ProbeSet:
    """Requests, the images of each item together; ``notes`` are said to the user once."""

    name: str
    probes: tuple[Probe, ...]
    notes: tuple[str, ...] = ()


def probe_set(images: str, codes: Sequence[str], limit: int, seed: int = 0) -> ProbeSet:
    """The set of ``images`` (empty: scenes; a folder of images; a folder or hub id of Crossmodal-3600) in languages
    ``codes`` (empty: all that the set has), with at most ``limit`` images.

    Raises InputError for an unknown language, a folder without images, a broken image, a wrong ``captions.jsonl``.
    """
    if limit < 1:
        raise InputError(f"limit: {limit} images; at least 1 is needed")
    if not images:
        return scene_set(codes, limit, seed)
    folder = Path(images).expanduser()
    if folder.exists() and not any(folder.rglob("*.parquet")):
        return folder_set(folder, codes, limit)
    if folder.exists() or (images.count("/") == 1 and not images.startswith(("/", ".", "~"))):
        return crossmodal_set(images, codes, limit, seed)
    raise InputError(f"{images}: no such folder of images; check --images")


def scene_set(codes: Sequence[str] = (), limit: int = 24, seed: int = 0, side: int = SIDE) -> ProbeSet:
    """Rendered scenes, ``side`` x ``side`` pixels; the text arm tells the scene in the asked language."""
    codes = _known(codes, languages.codes(), "scenes")
    probes: list[Probe] = []
    for number in range(limit):
        item = f"scene-{number:05d}"
        rng = random.Random(f"{seed}/{item}")
        scene = scenes.sample(rng, canonical=True)
        shown = _picture(encode_png(scenes.render(scene, rng, side)), item)
        blank = _picture(encode_png(scenes.blank(rng, side)), f"{item} blank")
        for code in codes:
            of_language = random.Random(f"{seed}/{item}/{code}")
            told = instructions.description(scene, code, of_language)
            context = grammar.caption(scene, code, rng=of_language)
            reference = json.dumps([told.meaning, told.answer], ensure_ascii=False)
            probes += _arms(f"{item}:caption", code, told.prompt, reference, shown, context, blank)
    return ProbeSet("scenes", tuple(probes))


def folder_set(folder: Path, codes: Sequence[str] = (), limit: int = 100) -> ProbeSet:
    """The images of a folder, by name; the text arm where ``captions.jsonl`` has a caption in the asked language."""
    codes = _known(codes, tuple(dict.fromkeys((*languages.codes(), *crossmodal.languages()))), "own images")
    found, captions = find_images(folder), _captions(folder / CAPTIONS)
    paths = found[:limit]
    probes: list[Probe] = []
    notes, without = [], 0
    if astray := {name for name, _ in captions} - {path.name for path in found}:
        notes.append(f"{folder / CAPTIONS} names what is no image of the folder: {', '.join(sorted(astray)[:3])}")
    for number, path in enumerate(paths):
        open_image(path)
        shown = _picture(path, path.name)
        for code in codes:
            told = captions.get((path.name, code))
            without += told is None
            reference = json.dumps([told] if told else [], ensure_ascii=False)
            probes += _arms(f"{path.name}:caption", code, _prompt(code, number), reference, shown, told)
    if without:
        where = "no" if without == len(paths) * len(codes) else f"{without} requests have no"
        notes.append(
            f"{where} caption in {folder / CAPTIONS}: the text arm is left out there, and without it no loss by the "
            "image can be told (one line per image and language: image, language, caption)"
        )
    return ProbeSet(folder.name, tuple(probes), tuple(notes))


def crossmodal_set(name: str, codes: Sequence[str] = (), limit: int = 100, seed: int = 0) -> ProbeSet:
    """A seeded choice of Crossmodal-3600 images; the text arm tells a person's caption in the asked language."""

    codes = _known(codes, crossmodal.languages(), "Crossmodal-3600")
    folder = crossmodal.resolve(name, codes)
    there = len(crossmodal.image_ids(folder, codes[0]))
    items, _ = crossmodal.read_items(folder, codes, validation=0, test=min(limit, there), seed=seed)
    pictures = {}
    for row in crossmodal.read_images(folder, codes[0], items):
        open_image(row["image"]["bytes"], row["image_id"])
        pictures[row["image_id"]] = _picture(row["image"]["bytes"], row["image_id"])
    lacking = [item.image_id for item in items if item.image_id not in pictures]
    if lacking:
        raise InputError(f"{name}: {len(lacking)} images are not in split {codes[0]!r}, first {lacking[0]}")
    probes: list[Probe] = []
    for number, item in enumerate(items):
        shown = pictures[item.image_id]
        for code in codes:
            prompt = crossmodal.prompts()[code].of("native", number)
            told = item.captions[code]
            reference = json.dumps(told, ensure_ascii=False)
            probes += _arms(f"{item.image_id}:caption", code, prompt, reference, shown, told[0])
    return ProbeSet("Crossmodal-3600", tuple(probes))


@lru_cache(maxsize=32)
def png(picture: SentPicture, longest: int = LONGEST) -> bytes:
    """The picture as PNG bytes, longest side at most ``longest`` pixels; the last few are kept, since requests come in
    image order."""
    decoded = shrink(open_image(picture.source, picture.name), longest)
    return encode_png(blank_like(decoded) if picture.blank else decoded)


def _arms(
    item: str, code: str, prompt: str, reference: str, shown: SentPicture, told: str | None,
    blank: SentPicture | None = None,
) -> Iterator[Probe]:  # fmt: skip
    blank = blank or replace(shown, blank=True)
    for arm, picture, words in request_arms(prompt, shown, blank, {} if told is None else {"text": told}):
        yield Probe(item, arm, "caption", code, words, reference, picture)


def _picture(source: Path | bytes, name: str) -> SentPicture:
    data = source if isinstance(source, bytes) else source.read_bytes()
    return SentPicture(hashlib.sha256(data).hexdigest(), name, source)


def _known(codes: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    found = []
    for code in codes:
        read = code
        with suppress(InputError):
            read = named_language(code)
        spelled = [each for each in (code, read, IN_DATA.get(read)) if each in known]
        if not spelled:
            raise InputError(f"{what}: no prompts in language {code!r}{did_you_mean(read, known)}")
        found.append(spelled[0])
    return tuple(dict.fromkeys(found)) or tuple(known)


def _prompt(code: str, number: int) -> str:

    if code in crossmodal.prompts():
        return crossmodal.prompts()[code].of("native", number)
    prompts = languages.load(code).prompts
    return prompts[number % len(prompts)]


def _captions(path: Path) -> dict[tuple[str, str], str]:
    """(image name, language) -> caption; nothing where there is no file."""
    found = {}
    for where, row in rows(path) if path.exists() else ():
        told = [row.get(name) for name in ("image", "language", "caption")] if isinstance(row, dict) else [None]
        if not all(isinstance(value, str) and value.strip() for value in told):
            raise InputError(f'{path}, {where}: expected {{"image": NAME, "language": CODE, "caption": TEXT}}')
        found[Path(told[0]).name, language_code(told[1])] = well_formed(told[2].strip())
    return found
