"""Scenes to row files: training images, English captions and questions, text rows, and the evaluation requests.

Three choices are not obvious.  Every scene belongs to one split for good (:mod:`textreg.scenes.splits`), and that
holds for text rows too.  The rows of an arm and of its control differ in one thing each: ``text`` crosses languages,
``text_mono`` does not, ``text_control`` is ``text_mono`` in English, ``text_lists`` has no sentence.  Held-out
languages stay out of the text rows altogether, also as the source of a translation.  Run it: ``papermill
notebooks/01_prepare_data.ipynb out.ipynb``.
"""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from textreg.data import mixture, prepare
from textreg.data.images import BLANK, open_image
from textreg.data.requests import IMAGE_TURN, request_arms
from textreg.data.rows import IMAGES, REQUESTS, ROWS, RowWriter, image_root, opened, read_rows
from textreg.display import Picture
from textreg.errors import InputError, did_you_mean
from textreg.pictures import rows as concepts
from textreg.scenes import instructions, languages
from textreg.scenes.grammar import caption, parse
from textreg.scenes.instructions import Instruction
from textreg.scenes.scene import Scene, blank, canonical, noise, render, to_json
from textreg.scenes.splits import draw
from textreg.settings import PrepareData

SOURCE = "scenes"
BLANKS = 8  # pictures of the arm ``blank``: empty backgrounds and noise in turn
LISTS = 0.15  # share of the text rows that are about single words, so that the text is not captions alone
NEVER_TRAINED = "where"  # the kind of question that no visual row asks, to see what tuning costs


def folder(settings: PrepareData) -> Path:
    """Where the stage writes."""
    return Path(settings.run) / "prepare_data"


def write(settings: PrepareData) -> dict[str, int]:
    """Write every file of the stage, at any scale; returns the rows per file."""
    if settings.scale == "scenes":
        return write_scenes(settings)
    if settings.scale == "pictures":
        return concepts.write(settings)
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
    check = {split: draw_checked(settings.seed, split, count) for split, count in checked(settings).items()}
    plan = text_plan(settings)
    quota = {each.language: each.rows for each in plan.quotas}
    out.mkdir(parents=True, exist_ok=True)
    plan.save(out / "mixture.csv")
    shown = {"train": train, "validation": validation, "test": test}
    tested = {"validation": validation, "test": test}
    files = {
        "images": (IMAGES, images(shown, check, settings.seed)),
        "align": (ROWS, align_rows(train[: settings.align_rows], settings.seed)),
        "visual": (ROWS, visual_rows(train[: settings.visual_rows], settings.seed, settings.caption_prompts)),
        "text": (ROWS, text_rows(quota, settings, "crossing")),
        "text_mono": (ROWS, text_rows(quota, settings, "mono")),
        "text_control": (ROWS, text_rows({"en": plan.rows}, settings, "mono")),
        "text_lists": (ROWS, text_rows(quota, settings, "lists")),
        "requests": (REQUESTS, requests(tested, check, settings)),
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


def draw_scenes(seed: int, split: str, count: int) -> list[Scene]:
    """``count`` scenes of a split that a picture can show without ambiguity.

    Training sees rare kinds of scenes as often as common ones, for they are what a short training learns last.
    """
    rng = random.Random(f"{seed}-{split}")
    return [draw(rng, split, canonical=True, flat=split == "train") for _ in range(count)]


def checked(settings: PrepareData) -> dict[str, int]:
    """How many English questions of each kind a split asks."""
    return {"validation": settings.validation_questions, "test": settings.test_questions}


def draw_checked(seed: int, split: str, count: int) -> list[tuple[str, Scene]]:
    """``count`` scenes for each kind of question, with the kind, so that every kind is asked equally often."""
    rng, found = random.Random(f"{seed}-{split}-check"), []
    for kind in languages.QUESTIONS:
        members: list[Scene] = []
        while len(members) < count:
            scene = draw(rng, split, canonical=True)
            if kind in instructions.question_kinds(scene):
                members.append(scene)
        found += [(kind, scene) for scene in members]
    return found


def image_id(split: str, index: int) -> str:
    """Name of an image, the same in every file of a run."""
    return f"{split}-{index:05d}"


def images(scenes: dict[str, list[Scene]], check: dict[str, list[tuple[str, Scene]]], seed: int) -> Iterator[dict]:
    """Rows of ``images.parquet``: every scene drawn once as PNG, and the pictures of the blank arm."""
    rng = random.Random(f"{seed}-blank")
    yield _image(BLANK, "all", blank(rng), None)
    for index in range(BLANKS):
        yield _image(f"{BLANK}-{index}", "all", noise(rng) if index % 2 else blank(rng), None)
    questioned = {f"{split}-check": [scene for _, scene in members] for split, members in check.items()}
    for name, members in (scenes | questioned).items():
        rng = random.Random(f"{seed}-{name}-pixels")
        for index, scene in enumerate(members):
            yield _image(image_id(name, index), name.removesuffix("-check"), render(scene, rng), to_json(scene))


def _image(name: str, split: str, picture, scene: str | None) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {"image_id": name, "split": split, "image": {"bytes": buffer.getvalue(), "path": None}, "scene": scene}


def _row(row_id: str, pair: Instruction, image: str | None, source: str = SOURCE) -> dict:
    prompt = (IMAGE_TURN + pair.prompt).rstrip() if image else pair.prompt
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


def visual_rows(scenes: list[Scene], seed: int, prompts: float = 1.0, questions: float = 0.4) -> Iterator[dict]:
    """English visual instructions: captions, of which a share has a prompt, and a share of questions of every kind but
    :data:`NEVER_TRAINED`.

    A caption without a prompt has a picture alone to take its language from, and teaches that it is English.
    """
    rng, keeps = random.Random(f"{seed}-visual"), random.Random(f"{seed}-prompts")
    for index, scene in enumerate(scenes):
        if rng.random() < questions:
            kinds = [kind for kind in instructions.question_kinds(scene) if kind != NEVER_TRAINED]
            pair = instructions.question(scene, "en", rng, rng.choice(kinds))
        else:
            pair = instructions.description(scene, "en", rng)
            pair = pair if keeps.random() < prompts else replace(pair, prompt="")
        yield _row(f"visual-{index:05d}", pair, image_id("train", index))


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


def text_rows(
    quota: dict[str, int], settings: PrepareData, crossing: Literal["crossing", "mono", "lists"]
) -> Iterator[dict]:
    """Text-only instruction pairs, ``quota`` rows per language, in random order of languages.

    ``crossing``: where a text has a source in another language, that is English with the share
    ``settings.text_english_source``, otherwise a language of the quota.  ``mono``: nothing crosses languages.
    ``lists``: as ``crossing``, but single words instead of sentences; of the other two a share is such lists.
    """
    rng = random.Random(f"{settings.seed}-{crossing}-{'-'.join(quota)}")
    order = [code for code, rows in quota.items() for _ in range(rows)]
    rng.shuffle(order)
    for index, code in enumerate(order):
        if crossing == "mono":
            source = code
        else:
            source = "en" if rng.random() < settings.text_english_source else rng.choice(list(quota))
        if crossing == "lists" or rng.random() < LISTS:
            pair = instructions.list_instruction(code, rng, source=source)
        else:
            pair = instructions.text_instruction(draw(rng, "train"), code, rng, source=source)
        yield _row(f"text-{index:05d}", pair, None)


def requests(
    scenes: dict[str, list[Scene]], check: dict[str, list[tuple[str, Scene]]], settings: PrepareData
) -> Iterator[dict]:
    """What every system is asked: in every language a caption of every image, in every arm, and one question about it;
    and of English questions as many of each kind as the settings say, with a caption of the same image.

    The arms ``blank`` and ``keywords`` take the first ``arm_images`` images.  Questions are asked with the image only.
    An item has the same id in every language and arm.
    """
    for split, members in scenes.items():
        for index, scene in enumerate(members):
            name = image_id(split, index)
            for code in settings.languages:
                rng = random.Random(f"{settings.seed}-{name}-{code}")
                told = instructions.description(scene, code, rng)
                texts = {
                    "text": caption(scene, code, rng=rng),
                    "text_en": caption(scene, "en", rng=rng),
                    "keywords": instructions.key_words(scene, code),
                }
                if code == "en":
                    del texts["text_en"]
                for arm, image, words in request_arms(told.prompt, name, f"{BLANK}-{index % BLANKS}", texts):
                    if arm in ("image", "text", "text_en") or index < settings.arm_images:
                        yield _request(split, arm, told, name, words, image)
                kinds = instructions.question_kinds(scene)
                kind = kinds[index % len(kinds)]
                asked = instructions.question(scene, code, random.Random(f"{settings.seed}-{name}"), kind)
                yield _request(split, "image", asked, name, IMAGE_TURN + asked.prompt, name)
    for split, members in check.items():
        for index, (kind, scene) in enumerate(members):
            name = image_id(f"{split}-check", index)
            rng = random.Random(f"{settings.seed}-{name}")
            pairs = [instructions.question(scene, "en", rng, kind)]
            if index % len(languages.QUESTIONS) == 0:  # a sixth of the images, of every kind
                pairs.append(instructions.description(scene, "en", rng))
            for pair in pairs:
                yield _request(split, "image", pair, name, IMAGE_TURN + pair.prompt, name)


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


def scenes_told(folder: Path) -> set[str]:
    """The canonical scenes (JSON) that any training row tells in its own language; a text in another language tells
    the scene of the row's answer.
    """
    told: set[str] = set()
    for path in sorted(folder.glob("*.parquet")):
        if path.stem in ("images", "requests"):
            continue
        rows = read_rows(path, columns=["language", "messages"])
        for code, messages in zip(rows["language"], rows["messages"], strict=True):
            lines = [line for turn in messages for line in turn["content"].splitlines()]
            read = (parse(text, code) for line in lines for text in (line, line.partition(": ")[2]))
            told |= {to_json(canonical(scene)) for scene in read if scene}
    return told
