"""Concepts to row files: English names under pictures, names in many languages from key words, and requests.

Visual rows show a picture concept in a training style and ask for its name in English, and nothing else of it is ever
told.  Text rows ask for the name of a *text* concept from key words; a row crosses languages where the key words are
in another one than the question and the answer.  Requests ask for the name of a picture concept in the style that
no training shows, in every language: with the picture, and with key words of the language or English ones in its
place.  Names that are spelt as the English one tell nothing and are not asked for; ``left_out.csv`` counts them.

The files are those of every scale (:mod:`textreg.data.rows`); that no row tells what it must not is checked on the
files as written (:func:`leaks`).  Run it: ``papermill notebooks/01_prepare_data.ipynb`` with a profile's settings.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

import pandas as pd
import yaml

from textreg.data import mixture
from textreg.data.images import BLANK, GREY, encode_png, open_image
from textreg.data.requests import IMAGE_TURN, request_arms
from textreg.data.rows import IMAGES, REQUESTS, ROWS, RowWriter, read_rows
from textreg.errors import InputError, RunError, did_you_mean
from textreg.pictures.folder import Concepts, read
from textreg.pictures.splits import SHOWN, Secrets, draw_number, plain, roles_of
from textreg.settings import PrepareData

SOURCE = "pictures"
CAPTION, NEW, NAME = "caption", "new", "name"
KEY_WORDS = 5  # of a context, at most
LONGEST = 4  # words of a name that a text row tells


@cache
def prompts() -> dict[str, list[str]]:
    """Language -> ways of asking for a name."""
    return yaml.safe_load(resources.files(__package__).joinpath("prompts.yaml").read_text("utf-8"))


@dataclass(frozen=True)
class World:
    """The concepts of a folder with their roles: what rows are drawn from."""

    concepts: Concepts

    @cached_property
    def roles(self) -> dict[str, str]:
        return roles_of(self.concepts)

    @cached_property
    def secrets(self) -> Secrets:
        return Secrets(self.concepts, self.roles, set(prompts()) & set(self.concepts.names))

    def of(self, *roles: str) -> list[str]:
        """The concepts with one of these roles, in order."""
        return [concept for concept in sorted(self.roles) if self.roles[concept] in roles]

    def key_words(self, concept: str, code: str) -> list[str]:
        """Key words of a concept in a language, its name not among them."""
        own = plain(self.concepts.names[code].get(concept, ""))
        return [word for word in self.concepts.words[code].get(concept, ()) if plain(word) != own][:KEY_WORDS]

    def tellable(self, code: str, source: str) -> list[str]:
        """Text concepts whose name in ``code`` and key words in ``source`` may stand in a training row."""
        kept = self._tellable.get((code, source))
        if kept is None:
            kept = [
                c for c in self.of("text") if (pair := self.told(c, code, source)) and not self.secrets.tells(pair)
            ]
            if not kept:
                raise InputError(
                    f"{self.concepts.root}: no text concept has a name in {code} and key words in {source}"
                )
            self._tellable[code, source] = kept
        return kept

    @cached_property
    def _tellable(self) -> dict[tuple[str, str], list[str]]:
        return {}

    def told(self, concept: str, code: str, source: str) -> str:
        """What a text row of this concept tells, empty where it cannot be told."""
        name, words = self.concepts.names[code].get(concept), self.key_words(concept, source)
        return "\n".join([*words, name]) if name and words and len(name.split()) <= LONGEST else ""

    def text_pair(self, code: str, source: str, rng: random.Random) -> tuple[str, str]:
        """Prompt (key words in ``source``, a question in ``code``) and answer (a name in ``code``)."""
        concept = rng.choice(self.tellable(code, source))
        words = self.key_words(concept, source)
        rng.shuffle(words)
        return f"{', '.join(words)}\n{rng.choice(prompts()[code])}", self.concepts.names[code][concept]


def write(settings: PrepareData) -> dict[str, int]:
    """Write every file of the stage; returns the rows per file.

    Raises :class:`InputError` for a folder or a language that cannot be used, :class:`RunError` where a row tells what
    it must not.
    """
    world = World(read(settings.image_folder))
    check_languages(settings, world.concepts)
    out = Path(settings.run) / "prepare_data"
    out.mkdir(parents=True, exist_ok=True)
    plan = mixture.plan(
        {(SOURCE, code): settings.text_rows for code in settings.text_languages},
        settings.text_rows,
        held_out=settings.held_out,
        temperature=settings.text_temperature,
        shares=mixture.paper_shares() if settings.text_mixture == "paper" else None,
    )
    plan.save(out / "mixture.csv")
    quota = {each.language: each.rows for each in plan.quotas}
    left_out: Counter[str] = Counter()
    files = {
        "images": (IMAGES, images(world, settings)),
        "align": (ROWS, visual_rows(world, settings.align_rows, f"{settings.seed}-align")),
        "visual": (
            ROWS,
            visual_rows(world, settings.visual_rows, f"{settings.seed}-visual", settings.caption_prompts),
        ),
        "text": (ROWS, text_rows(world, quota, settings, crossing=True)),
        "text_mono": (ROWS, text_rows(world, quota, settings, crossing=False)),
        "text_control": (ROWS, text_rows(world, {"en": plan.rows}, settings, crossing=False)),
        "requests": (REQUESTS, requests(world, settings, left_out)),
    }
    written = {}
    for name, (schema, rows) in files.items():
        with RowWriter(out / f"{name}.parquet", schema) as writer:
            written[name] = writer.write_many(rows)
    names = pd.read_csv(world.concepts.root / "names.csv", keep_default_na=False, dtype=str)
    names[names["language"].isin(settings.languages)].to_csv(out / "names.csv", index=False)
    counted = [(code, left_out[code]) for code in settings.languages]
    pd.DataFrame(counted, columns=["language", "left_out"]).to_csv(out / "left_out.csv", index=False)
    if found := leaks(out, world.secrets):
        raise RunError(f"{out}: {len(found)} training rows tell a name that is asked for (first: {found[0]})")
    return written


def check_languages(settings: PrepareData, concepts: Concepts) -> None:
    """Refuse a language without names or without a question, and a set without English."""
    wanted = [*settings.languages, *settings.text_languages]
    concepts.require(wanted)
    for code in wanted:
        if code not in prompts():
            raise InputError(
                f"prepare_data.languages: no question in {code!r} in prompts.yaml{did_you_mean(code, prompts())}"
            )
    if "en" not in settings.languages:
        raise InputError("prepare_data.languages: English (en) is missing; seeing is measured in English")


def image_id(concept: str, style: str) -> str:
    """Name of a drawing in every file of a run."""
    return f"{concept}@{style}"


def images(world: World, settings: PrepareData) -> Iterator[dict]:
    """Rows of ``images.parquet``: picture concepts in the training styles, asked ones in the style held out."""
    grey = encode_png(
        open_image(next(iter(world.concepts.styles[world.concepts.held_out_style].values()))).point(lambda _: GREY[0])
    )
    yield {"image_id": BLANK, "split": "all", "image": {"bytes": grey, "path": None}, "scene": None}
    held_out = world.concepts.held_out_style
    shown = [(c, style, "train") for style in world.concepts.styles if style != held_out for c in world.of(*SHOWN)]
    for split in ("validation", "test"):
        shown += [(concept, held_out, split) for concept, _ in asked(world, settings, split)]
    for concept, style, split in shown:
        data = world.concepts.styles[style][concept].read_bytes()
        yield {
            "image_id": image_id(concept, style),
            "split": split,
            "image": {"bytes": data, "path": None},
            "scene": None,
        }


def asked(world: World, settings: PrepareData, split: str) -> list[tuple[str, str]]:
    """Concepts that a split asks about, and the task: naming one that training showed, or a new one."""
    count = {"validation": settings.validation_images, "test": settings.test_images}[split]
    found = [(concept, CAPTION) for concept in sorted(world.of(split), key=draw_number)[:count]]
    new = {"validation": settings.validation_questions, "test": settings.test_questions}[split]
    halves = sorted(world.of("new"), key=draw_number)[split != "test" :: 2]  # none is asked on both
    return found + [(concept, NEW) for concept in halves[:new]]


def _row(row_id: str, task: str, code: str, prompt: str, answer: str, image: str | None) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    told = {"row_id": row_id, "source": SOURCE, "task": task, "language": code}
    return {**told, "image_id": image, "messages": messages}


def visual_rows(world: World, count: int, seed: str, asked: float = 1.0) -> Iterator[dict]:
    """English names under drawings in the training styles: whole epochs, each in an order of its own; the share
    ``asked`` has its question, the others are a picture and its name."""
    rng, keeps, pool = random.Random(seed), random.Random(f"{seed}-prompts"), []
    styles = [style for style in world.concepts.styles if style != world.concepts.held_out_style]
    every = [(concept, style) for concept in world.of(*SHOWN) for style in styles]
    for index in range(count):
        if not pool:
            pool = rng.sample(every, len(every))
        concept, style = pool.pop()
        question = rng.choice(prompts()["en"])
        prompt = IMAGE_TURN + question if keeps.random() < asked else IMAGE_TURN.rstrip()
        yield _row(
            f"{seed}-{index:05d}", CAPTION, "en", prompt, world.concepts.names["en"][concept], image_id(concept, style)
        )


def text_rows(world: World, quota: dict[str, int], settings: PrepareData, *, crossing: bool) -> Iterator[dict]:
    """Names from key words, ``quota`` rows per language, in random order; ``crossing``: the key words are English with
    the share ``settings.text_english_source``, otherwise of a language of the quota."""
    rng = random.Random(f"{settings.seed}-text-{crossing}-{'-'.join(quota)}")
    order = [code for code, rows in quota.items() for _ in range(rows)]
    rng.shuffle(order)
    for index, code in enumerate(order):
        source = code
        if crossing:
            source = "en" if rng.random() < settings.text_english_source else rng.choice(list(quota))
        prompt, answer = world.text_pair(code, source, rng)
        yield _row(f"text-{index:05d}", NAME, code, prompt, answer, None)


def requests(world: World, settings: PrepareData, left_out: Counter[str]) -> Iterator[dict]:
    """What every system is asked; ``left_out`` counts, per language, names spelt as the English one."""
    english = world.concepts.names["en"]
    for split in ("validation", "test"):
        for index, (concept, task) in enumerate(asked(world, settings, split)):
            for code in settings.languages:
                name = world.concepts.names[code].get(concept)
                if name is None or (code != "en" and plain(name) == plain(english[concept])):
                    left_out[code] += 1
                    continue
                texts = {"text": ", ".join(world.key_words(concept, code))}
                texts["text_en"] = ", ".join(world.key_words(concept, "en"))
                if code == "en":
                    del texts["text_en"]
                prompt = prompts()[code][index % 2]
                picture = image_id(concept, world.concepts.held_out_style)
                for arm, image, words in request_arms(prompt, picture, BLANK, {a: t for a, t in texts.items() if t}):
                    if (arm == "blank" and index >= settings.arm_images) or (task == NEW and arm != "image"):
                        continue
                    told = {"item_id": f"{picture}:{task}", "split": split, "arm": arm, "task": task, "language": code}
                    reference = json.dumps([concept, name], ensure_ascii=False)
                    yield {**told, "image_id": image, "prompt": words, "reference": reference}


def leaks(folder: Path, secrets: Secrets) -> list[str]:
    """``file, row: name`` of every training row that holds the foreign name of a concept that is shown or asked."""
    found = []
    for path in sorted(folder.glob("*.parquet")):
        if path.stem not in ("images", "requests"):
            rows = read_rows(path, columns=["row_id", "messages"])
            for row, messages in zip(rows["row_id"], rows["messages"], strict=True):
                lines = [
                    part for turn in messages for line in turn["content"].split("\n") for part in line.split(", ")
                ]
                told = next((name for name in map(secrets.tells, lines) if name), None)
                found += [f"{path.stem}, {row}: {told}"] if told else []
    return found
