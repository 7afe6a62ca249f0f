"""Crossmodal-3600 as requests: the same images asked in up to 36 languages, with human captions as references.

Two choices are not obvious.  An item keeps its image and its paraphrase in every language and arm, so that arms
compare the same question.  In the arm ``text`` the caption that a person wrote in the asked language stands where the
image was: the content is right and in that language, so the fidelity of this arm is what the language model can do,
and the image arm is measured against it.  How captions are scored is said in :mod:`textreg.fidelity.references`.

Data: ``floschne/xm3600`` at a pinned revision, or a folder with the same files (``data/de-00000-of-00001.parquet``).
Source: Thapliyal et al., EMNLP 2022 (CC-BY-4.0).  Try it: ``crossmodal.prompts()["uk"].native``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from textreg.data import hub, sources
from textreg.data.images import BLANK
from textreg.data.requests import request_arms
from textreg.errors import InputError, did_you_mean

COLUMNS = ("image_id", "captions", "image")
Condition = Literal["native", "english"]


@dataclass(frozen=True)
class Prompts:
    """How to ask for a caption in one language; ``english`` names the language in English."""

    english_name: str
    native: tuple[str, ...]
    english: str

    def of(self, condition: Condition, number: int) -> str:
        """The prompt of item ``number``: native paraphrases take turns."""
        return self.english if condition == "english" else self.native[number % len(self.native)]


@dataclass(frozen=True)
class Item:
    """One image with its captions: language -> captions."""

    image_id: str
    split: str
    captions: Mapping[str, tuple[str, ...]]


@cache
def prompts() -> dict[str, Prompts]:
    """Language code -> prompts, for the 36 languages, from ``crossmodal_prompts.yaml``."""
    data = yaml.safe_load(resources.files(__package__).joinpath("crossmodal_prompts.yaml").read_text("utf-8"))
    return {
        code: Prompts(
            entry["english_name"], tuple(entry["native"]), data["english"].format(language=entry["english_name"])
        )
        for code, entry in data["languages"].items()
    }


def languages() -> tuple[str, ...]:
    """The 36 codes, sorted."""
    return tuple(sorted(prompts()))


def check_languages(wanted: Iterable[str]) -> None:
    """Raises ``InputError`` for a language that Crossmodal-3600 does not have."""
    for code in wanted:
        if code not in prompts():
            raise InputError(f"Crossmodal-3600 has no language {code!r}{did_you_mean(code, prompts())}")


def split_files(folder: Path, language: str) -> list[Path]:
    """The Parquet files of one language split.  Raises ``InputError`` naming the file that was looked for."""
    files = sorted(folder.rglob(f"{language}-*-of-*.parquet")) or sorted(folder.rglob(f"{language}.parquet"))
    if not files:
        raise InputError(
            f"{folder.name}: no split for language {language!r}; expected data/{language}-00000-of-00001.parquet"
        )
    return files


def _rows(folder: Path, language: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in split_files(folder, language):
        found = sources.columns(path)
        if lacking := [name for name in columns if name not in found]:
            told = f"found {', '.join(sorted(found))}; expected {', '.join(COLUMNS)}"
            raise InputError(f"{path.name}: no column {lacking[0]}; {told}")
        yield from sources.records(path, columns)


def image_ids(folder: Path, language: str) -> list[str]:
    """The images of one split, sorted."""
    return sorted({str(row["image_id"]) for row in _rows(folder, language, ["image_id"])})


def read_items(
    folder: Path, wanted: Sequence[str], *, validation: int, test: int, seed: int
) -> tuple[list[Item], dict[str, int]]:
    """A seeded choice of images with their captions in every wanted language, sorted by image id.

    Returns the items and language -> captions.  The pictures are not read here.  Raises ``InputError`` when the data
    set has fewer images than asked for, or an image lacks a language.
    """
    check_languages(wanted)
    ids = image_ids(folder, wanted[0])
    if len(ids) < validation + test:
        raise InputError(
            f"{folder.name} has {len(ids)} images in {wanted[0]!r}, the profile asks for {validation} validation and "
            f"{test} test images; lower prepare_data.validation_images or test_images"
        )
    drawn = [ids[i] for i in np.random.default_rng([seed, 36]).permutation(len(ids))[: validation + test]]
    split = dict.fromkeys(drawn[:validation], "validation") | dict.fromkeys(drawn[validation:], "test")
    captions: dict[str, dict[str, tuple[str, ...]]] = {image_id: {} for image_id in split}
    for language in wanted:
        for row in _rows(folder, language, ["image_id", "captions"]):
            kept = tuple(text.strip() for text in row["captions"] or () if text and text.strip())
            if str(row["image_id"]) in captions and kept:
                captions[str(row["image_id"])][language] = kept
        lacking = sorted(image_id for image_id in split if language not in captions[image_id])
        if lacking:
            raise InputError(
                f"{folder.name}: {len(lacking)} images have no caption in {language!r}, first {lacking[0]}"
            )
    items = [Item(image_id, split[image_id], captions[image_id]) for image_id in sorted(split)]
    return items, {language: sum(len(item.captions[language]) for item in items) for language in wanted}


def read_images(folder: Path, language: str, items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    """The pictures of the items, once each, from one split (all splits hold the same), as rows of
    ``images.parquet``.
    """
    split = {item.image_id: item.split for item in items}
    for row in _rows(folder, language, ["image_id", "image"]):
        image_id = str(row["image_id"])
        if image_id in split:
            image = row["image"] or {}
            if not image.get("bytes"):
                raise InputError(
                    f"{folder.name}: image {image_id} of split {language!r} holds no bytes; download again"
                )
            record = {"bytes": image["bytes"], "path": None}
            yield {"image_id": image_id, "split": split.pop(image_id), "image": record, "scene": None}


def requests(
    items: Sequence[Item], wanted: Sequence[str], condition: Condition = "native"
) -> Iterator[dict[str, Any]]:
    """The requests of all arms, one image after the other, in the form of ``requests.parquet``."""
    for number, item in enumerate(items):
        for language in wanted:
            prompt = prompts()[language].of(condition, number)
            captions = item.captions[language]
            texts = {"text": captions[0]}
            if language != "en" and "en" in item.captions:
                texts["text_en"] = item.captions["en"][0]
            for arm, image_id, words in request_arms(prompt, item.image_id, BLANK, texts):
                yield {
                    "item_id": f"caption/{item.image_id}",
                    "split": item.split,
                    "arm": arm,
                    "task": "caption",
                    "language": language,
                    "image_id": image_id,
                    "prompt": words,
                    "reference": json.dumps(captions, ensure_ascii=False),
                }


def resolve(name: str, wanted: Sequence[str]) -> Path:
    """The folder of the data set, from a hub id or a local folder; of a hub id the wanted languages alone are fetched,
    because each holds all pictures once more.
    """
    return hub.resolve(name, kind="dataset", files=files(wanted))


def files(wanted: Sequence[str]) -> list[str]:
    """Patterns of the files that hold some languages."""
    return [f"{folder}{code}{rest}.parquet" for code in wanted for folder in ("", "*/") for rest in ("", "-*-of-*")]
