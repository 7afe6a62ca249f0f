"""Scenes to row files: training images, English captions and questions, the text mixture, and the evaluation requests.

Three choices are not obvious.  Every possible scene belongs to one split for good, by a hash of its meaning, so that
no test scene is ever shown in training, whatever the seed.  The text arm gives the same content in the *asked*
language in place of the image, so that the two arms of a request differ in nothing else.  Held-out languages stay out
of the text rows altogether, also as the source of a translation.  Run it: ``papermill notebooks/01_prepare_data.ipynb
out.ipynb``.
"""

import hashlib
import io
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from textreg.data import mixture, prepare
from textreg.data.images import BLANK, open_image
from textreg.data.requests import IMAGE_TURN, three_arms
from textreg.data.rows import IMAGES, REQUESTS, ROWS, RowWriter, image_root, opened
from textreg.display import Picture
from textreg.errors import InputError, did_you_mean
from textreg.scenes import instructions, languages
from textreg.scenes.grammar import caption
from textreg.scenes.instructions import Instruction
from textreg.scenes.scene import Scene, blank, canonical, render, sample, to_json
from textreg.settings import PrepareData

SOURCE = "scenes"


def folder(settings: PrepareData) -> Path:
    """Where the stage writes."""
    return Path(settings.run) / "prepare_data"


def write(settings: PrepareData) -> dict[str, int]:
    """Write every file of the stage, at either scale; returns the rows per file."""
    if settings.scale == "scenes":
        return write_scenes(settings)

    return dict(prepare.prepare(settings, folder(settings)).rows)


def write_scenes(settings: PrepareData) -> dict[str, int]:
    """Write every file of the stage at scenes scale; returns the rows per file.

    Raises :class:`InputError` for a language without a language file or a held-out language among the text languages.
    """
    check_languages(settings)
    out = folder(settings)
    train = draw_scenes(settings.seed, "train", max(settings.align_rows, settings.visual_rows))
    validation = draw_scenes(settings.seed, "validation", settings.validation_images)
    test = draw_scenes(settings.seed, "test", settings.test_images)
    plan = text_plan(settings)
    out.mkdir(parents=True, exist_ok=True)
    plan.save(out / "mixture.csv")
    files = {
        "images": (IMAGES, images({"train": train, "validation": validation, "test": test}, settings.seed)),
        "align": (ROWS, align_rows(train[: settings.align_rows], settings.seed)),
        "visual": (ROWS, visual_rows(train[: settings.visual_rows], settings.seed)),
        "text": (ROWS, text_rows({q.language: q.rows for q in plan.quotas}, settings.seed)),
        "text_control": (ROWS, text_rows({"en": plan.rows}, settings.seed)),
        "requests": (REQUESTS, requests({"validation": validation, "test": test}, settings.languages, settings.seed)),
    }
    written = {}
    for name, (schema, rows) in files.items():
        with RowWriter(out / f"{name}.parquet", schema) as writer:
            written[name] = writer.write_many(rows)
    return written


def check_languages(settings: PrepareData) -> None:
    """Refuse unknown languages, a set without English, and a held-out language that the text rows would show."""
    known = languages.codes()
    for field in ("languages", "text_languages", "held_out"):
        for code in getattr(settings, field):
            if code not in known:
                raise InputError(f"prepare_data.{field}: no language file for {code!r}{did_you_mean(code, known)}")
    if "en" not in settings.languages:
        raise InputError("prepare_data.languages: English (en) is missing; the visual score is measured in English")
    shown = sorted(set(settings.text_languages) & set(settings.held_out))
    if shown:
        raise InputError(
            f"prepare_data.held_out: {', '.join(shown)} also in text_languages; name it in one of the two"
        )


def split_of(scene: Scene) -> str:
    """The split a scene belongs to, whoever draws it: 10 % of all scenes are test, 5 % validation."""
    number = int.from_bytes(hashlib.sha256(to_json(canonical(scene)).encode()).digest()[:4]) % 100
    return "test" if number < 10 else "validation" if number < 15 else "train"


def draw_scenes(seed: int, split: str, count: int) -> list[Scene]:
    """``count`` scenes of a split that a picture can show without ambiguity.

    Training sees rare kinds of scenes as often as common ones, for they are what a short training learns last.
    """
    rng = random.Random(f"{seed}-{split}")
    endless = (sample(rng, canonical=True, flat=split == "train") for _ in itertools.count())
    return list(itertools.islice((scene for scene in endless if split_of(scene) == split), count))


def image_id(split: str, index: int) -> str:
    """Name of an image, the same in every file of a run."""
    return f"{split}-{index:05d}"


def images(scenes: dict[str, list[Scene]], seed: int) -> Iterator[dict]:
    """Rows of ``images.parquet``: every scene drawn once as PNG, and the blank image of the blank arm."""
    yield _image(BLANK, "all", blank(random.Random(f"{seed}-blank")), None)
    for split, members in scenes.items():
        rng = random.Random(f"{seed}-{split}-pixels")
        for index, scene in enumerate(members):
            yield _image(image_id(split, index), split, render(scene, rng), to_json(scene))


def _image(name: str, split: str, picture, scene: str | None) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {"image_id": name, "split": split, "image": {"bytes": buffer.getvalue(), "path": None}, "scene": scene}


def _row(row_id: str, pair: Instruction, image: str | None, source: str = SOURCE) -> dict:
    prompt = IMAGE_TURN + pair.prompt if image else pair.prompt
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": pair.answer}]
    return {
        "row_id": row_id,
        "source": source,
        "task": pair.task,
        "language": pair.language,
        "image_id": image,
        "messages": messages,
    }


def align_rows(scenes: list[Scene], seed: int) -> Iterator[dict]:
    """English captions, one per image: what the projector learns from."""
    rng = random.Random(f"{seed}-align")
    for index, scene in enumerate(scenes):
        yield _row(f"align-{index:05d}", instructions.description(scene, "en", rng), image_id("train", index))


def visual_rows(scenes: list[Scene], seed: int, questions: float = 0.4) -> Iterator[dict]:
    """English visual instructions: captions, and a share of questions."""
    rng = random.Random(f"{seed}-visual")
    for index, scene in enumerate(scenes):
        ask = instructions.question if rng.random() < questions else instructions.description
        yield _row(f"visual-{index:05d}", ask(scene, "en", rng), image_id("train", index))


def text_plan(settings: PrepareData) -> mixture.MixturePlan:
    """Rows per language of the multilingual text; every pool is as large as asked, for text is generated."""
    pool = {(SOURCE, code): settings.text_rows for code in settings.text_languages}
    return mixture.plan(
        pool,
        settings.text_rows,
        held_out=settings.held_out,
        temperature=settings.text_temperature,
        shares=mixture.paper_shares() if settings.text_mixture == "paper" else None,
    )


def text_rows(quota: dict[str, int], seed: int) -> Iterator[dict]:
    """Text-only instruction pairs, ``quota`` rows per language, in random order of languages.

    A translation or a description of another text has its source among the languages of the quota.
    """
    rng = random.Random(f"{seed}-text-{'-'.join(quota)}")
    order = [code for code, rows in quota.items() for _ in range(rows)]
    rng.shuffle(order)
    for index, code in enumerate(order):
        pair = instructions.text_instruction(sample(rng), code, rng, source=rng.choice(list(quota)))
        yield _row(f"text-{index:05d}", pair, None)


def requests(scenes: dict[str, list[Scene]], codes: list[str], seed: int) -> Iterator[dict]:
    """What every system is asked: a caption of every image in every language and arm, and one question about it.

    Questions are asked with the image only.  An item has the same id in every language and arm.
    """
    for split, members in scenes.items():
        for index, scene in enumerate(members):
            name = image_id(split, index)
            for code in codes:
                rng = random.Random(f"{seed}-{name}-{code}")
                told = instructions.description(scene, code, rng)
                told_as_text = instructions.with_context(caption(scene, code, rng=rng), told)
                for arm, image, words in three_arms(told.prompt, name, BLANK, told_as_text):
                    yield _request(split, arm, told, name, words, image)
                kinds = instructions.question_kinds(scene)
                asked = instructions.question(scene, code, random.Random(f"{seed}-{name}"), kinds[index % len(kinds)])
                yield _request(split, "image", asked, name, IMAGE_TURN + asked.prompt, name)


def _request(split: str, arm: str, pair: Instruction, item: str, prompt: str, image: str | None) -> dict:
    return {
        "item_id": f"{item}:{pair.task}",
        "split": split,
        "arm": arm,
        "task": pair.task,
        "language": pair.language,
        "image_id": image,
        "prompt": prompt,
        "reference": json.dumps([pair.meaning, pair.answer], ensure_ascii=False),
    }


def contact_sheet(path: str | Path, split: str, count: int, scale: int = 2, columns: int = 6) -> Picture:
    """The first ``count`` pictures of a split side by side, for looking at.

    Scenes are enlarged ``scale`` times, photographs fitted into squares of 160 pixels.  Only as much of the table is
    read as it takes.
    """

    pictures, drawn = _first_pictures(Path(path), split, count)
    side, gap = min(pictures[0].width * scale, 160), 6
    how = Image.Resampling.NEAREST if drawn else Image.Resampling.BICUBIC
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for number, picture in enumerate(pictures):
        place = (number % columns * (side + gap), number // columns * (side + gap))
        sheet.paste(ImageOps.pad(picture, (side, side), how, "white"), place)
    told = f"{len(pictures)} pictures of the {split} split"
    return Picture(sheet, f"{told}, each with one to three coloured shapes" if drawn else told)


def _first_pictures(path: Path, split: str, count: int) -> tuple[list["Image"], bool]:
    """The first pictures of a split, without the blank one, and whether all of them are drawn scenes."""
    root = image_root(path)
    pictures: list[Image] = []
    drawn = True
    with opened(path) as (file, names):
        batches = file.iter_batches(batch_size=64, columns=names)
        for record in (record for batch in batches for record in batch.to_pylist()):
            if record["split"] != split or record["image_id"] == BLANK:
                continue
            stored = record["image"]
            name = str(record["image_id"])
            pictures.append(open_image(stored["bytes"] or (root or path.parent) / stored["path"], name))
            drawn = drawn and record["scene"] is not None
            if len(pictures) == count:
                break
    if not pictures:
        raise InputError(f"{path}: no picture of the split {split!r}; run the stage prepare_data again")
    return pictures, drawn
