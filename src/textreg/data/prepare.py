"""``prepare_data`` at hub scale: row files, images, requests and the text mixture from real data sets.

The order is fixed, so a run is repeatable: every source is resolved, counted, planned, and only then are the chosen
rows written.  Not obvious: visual sources give only rows with an image (a baseline with hidden text rows would be a
hidden TR), text sources only rows without one, and the English control is drawn from the same sources as the
multilingual rows, so that language is what differs.

Run it: ``textreg run --profile gpu --only prepare_data``.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from textreg.data import crossmodal, hub, images, mixture
from textreg.data.pictures import BrokenImage, Pictures, checked
from textreg.data.questions import question_requests, read_questions, split_questions
from textreg.data.rows import IMAGES, REQUESTS, ROWS, RowWriter
from textreg.data.sources import Row, Source, check_names, choose, count, names_language
from textreg.data.sources import source as open_source
from textreg.errors import InputError
from textreg.settings import PrepareData

Say = Callable[[str], None]
IMAGE_GROUP = 256  # rows of images.parquet held in memory at a time


@dataclass(frozen=True)
class Prepared:
    """What was written: rows per file, the text mixture and its English control, and why rows were left out."""

    rows: Mapping[str, int]
    text: mixture.MixturePlan
    control: mixture.MixturePlan
    skipped: Mapping[str, int]


class _Images:
    """The one writer of ``images.parquet``; a picture that two rows share is written once."""

    def __init__(self, writer: RowWriter):
        self._writer = writer
        self._seen: set[str] = set()

    def add(self, record: Mapping[str, Any]) -> None:
        if record["image_id"] not in self._seen:
            self._seen.add(record["image_id"])
            self._writer.write(record)

    def visual_rows(
        self, source: Source, rows: Iterable[Row], settings: PrepareData, wanted: int, task: str, say: Say
    ) -> Iterator[dict[str, Any]]:
        pictures = Pictures(source.folder, settings.image_folder)
        how = {"limit": settings.max_broken_images, "workers": min(8, os.cpu_count() or 1), "say": say}
        for row, picture in checked(rows, pictures, wanted=wanted, **how):
            self.add(picture.as_record("train"))
            yield row.as_record(task=task, image_id=picture.image_id)


def prepare(settings: PrepareData, folder: str | Path, say: Say = print) -> Prepared:
    """Write every ``prepare_data`` file of DESIGN's contract into ``folder``; ``say`` gets the lines of the plan.

    Raises ``InputError`` for anything wrong with a source (see ``hub``, ``sources``, ``pictures``,
    ``crossmodal``).
    """
    folder = Path(folder)
    crossmodal.check_languages(settings.languages)
    check_names(named_sources(settings))
    opened = {setting: [open_source(name) for name in names] for setting, names in named_sources(settings).items()}
    align, visual, texts = opened.values()
    evaluation = crossmodal.resolve(settings.evaluation_data, settings.languages)

    sizes = {source.name: _visual_rows(source, say) for source in [*align, *visual]}
    pool = _pool(texts)
    plan = text_plan(settings, pool, say)
    control = mixture.plan(_only_english(pool), plan.rows, languages=["en"])
    say(plan.describe())
    say(f"English control: {control.rows} rows" + _short(control))

    written: dict[str, int] = {}
    root = Path(settings.image_folder).expanduser().resolve() if settings.image_folder else None
    with RowWriter(folder / "images.parquet", IMAGES, image_root=root, group=IMAGE_GROUP) as image_file:
        table = _Images(image_file)
        table.add(blank_image())
        stages = (("align", align, settings.align_rows), ("visual", visual, settings.visual_rows))
        for name, sources, rows in stages:
            if sources:
                written[name] = _write_visual(folder / f"{name}.parquet", sources, sizes, rows, settings, table, say)
        for name, chosen in (("text", plan), ("text_control", control)):
            written[name] = _write_text(folder / f"{name}.parquet", texts, chosen, settings.seed)
        written["requests"] = _write_requests(folder / "requests.parquet", evaluation, settings, table, say)
    written["images"] = image_file.rows
    plan.save(folder / "mixture.csv")
    skipped: Counter = Counter()
    for source in [*align, *visual, *texts]:
        skipped.update({f"{source.name}: {reason}": n for reason, n in source.skipped.items()})
    for reason, n in sorted(skipped.items()):
        say(f"left out {n} rows of {reason}")
    return Prepared(written, plan, control, dict(skipped))


def named_sources(settings: PrepareData) -> dict[str, list[str]]:
    """Setting -> the data sets it names, of the settings whose rows and pictures end up in one table.

    Without rows to align on, as for a published model, their data set is never asked for.
    """
    return {
        "align_data": [settings.align_data] if settings.align_rows else [],
        "visual_data": settings.visual_data,
        "text_data": settings.text_data,
    }


def text_plan(settings: PrepareData, pool: Mapping[tuple[str, str], int], say: Say = print) -> mixture.MixturePlan:
    """The mixture of the multilingual text rows, by temperature or like Fig. 2, without held-out languages.

    A language of which no source has a row is left out, and ``say`` is told; having none of them is an ``InputError``,
    and so is a mixture like the paper's in which a language misses its share by more than half.
    """
    found = {language for _, language in pool}
    wanted = [language for language in settings.text_languages if language in found]
    absent = [language for language in settings.text_languages if language not in found]
    if not wanted:
        raise InputError(
            f"no text row in {', '.join(settings.text_languages)}; the sources have {', '.join(sorted(found))}; "
            "change prepare_data.text_languages or text_data"
        )
    if absent:
        say(f"no text row in {', '.join(absent)} in any source: left out of the mixture")
    paper = settings.text_mixture == "paper"
    plan = mixture.plan(
        pool,
        settings.text_rows,
        languages=wanted,
        held_out=settings.held_out,
        temperature=settings.text_temperature,
        shares=mixture.paper_shares() if paper else None,
    )
    if paper:
        _require_shares(plan, [code for code in settings.text_languages if code not in settings.held_out])
    return plan


def _require_shares(plan: mixture.MixturePlan, languages: Sequence[str]) -> None:
    """Refuse a mixture that bears a name it does not deserve."""
    shares = {code: share for code, share in mixture.paper_shares().items() if code in languages}
    rows: Counter = Counter()
    for quota in plan.quotas:
        rows[quota.language] += quota.rows
    told, sources = [], []
    for code, share in shares.items():
        wanted = share / sum(shares.values())
        if rows[code] < int(wanted * plan.asked) / 2:
            told.append(f"{code} {rows[code] / plan.asked:.1%} of the {wanted:.1%} it shall have")
            sources += [name for name, facts in hub.known().items() if code in facts.get("holds", ())]
    if told:
        known = ", ".join(dict.fromkeys(sources)) or "CohereLabs/aya_collection_language_split:NAME/train*"
        raise InputError(
            f"text_mixture = paper cannot be made of these sources: {', '.join(told)}; add some to "
            f"prepare_data.text_data (known: {known}), take the language out, or say text_mixture: temperature"
        )


def _pool(sources: Sequence[Source]) -> dict[tuple[str, str], int]:
    return {(s.name, language): n for s in sources for language, n in count(s, "text").items()}


def _only_english(pool: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    english = {key: n for key, n in pool.items() if key[1] == "en"}
    if not english:
        raise InputError(
            "no English text row for the control; add a source with English rows to prepare_data.text_data"
        )
    return english


def _short(plan: mixture.MixturePlan) -> str:
    missing = plan.asked - plan.rows
    return f", {missing} fewer than the multilingual rows: some will be repeated in training" if missing else ""


def _visual_rows(source: Source, say: Say) -> int:
    """The rows with an image of a source, all of which must be English: what a model is tuned on with images is
    English by design, and rows of another language there would be the cure that is being tested.
    """
    counts = count(source, "visual")
    if not counts:
        raise InputError(f"{source.name}: no row with an image among its {len(source.files)} files")
    other = {language: n for language, n in counts.items() if language != "en"}
    if other:
        language, rows = max(other.items(), key=lambda item: item[1])
        raise InputError(
            f"{source.name}: {sum(other.values())} of {sum(counts.values())} rows with an image are not English "
            f"({rows} are {language!r}), and visual rows are English by design; keep its English rows only, or "
            "take its column language out if it is wrong"
        )
    if not names_language(source):
        say(f"{source.name}: no column language, its rows are taken as English")
    return counts["en"]


def _write_visual(
    path: Path,
    sources: Sequence[Source],
    sizes: Mapping[str, int],
    rows: int,
    settings: PrepareData,
    table: _Images,
    say: Say,
) -> int:
    """Sources share the rows by size."""
    whole = [sizes[source.name] for source in sources]
    with RowWriter(path, ROWS) as writer:
        for source, size, part in zip(sources, whole, mixture.fill(whole, whole, rows), strict=True):
            chosen = choose(source, "visual", {"en": part}, {"en": size}, settings.seed)
            writer.write_many(table.visual_rows(source, chosen, settings, part, path.stem, say))
            say(f"{path.stem}: {part} of {size} rows of {source.name}")
    if writer.rows < rows:
        say(f"{path.stem}: {writer.rows} rows of the {rows} asked for: some will be repeated in training")
    return writer.rows


def _write_text(path: Path, sources: Sequence[Source], plan: mixture.MixturePlan, seed: int) -> int:
    with RowWriter(path, ROWS) as writer:
        for source in sources:
            quotas = [quota for quota in plan.quotas if quota.source == source.name]
            wanted = {quota.language: quota.rows for quota in quotas}
            available = {quota.language: quota.available for quota in quotas}
            rows = choose(source, "text", wanted, available, seed)
            writer.write_many(row.as_record(task=path.stem, image_id=None) for row in rows)
    return writer.rows


def _write_requests(path: Path, folder: Path, settings: PrepareData, table: _Images, say: Say) -> int:
    wanted = settings.languages
    items, captions = crossmodal.read_items(
        folder, wanted, validation=settings.validation_images, test=settings.test_images, seed=settings.seed
    )
    for record in crossmodal.read_images(folder, wanted[0], items):
        table.add(record)
    say(f"requests: {len(items)} images, {len(wanted)} languages, {sum(captions.values())} reference captions")
    with RowWriter(path, REQUESTS) as writer:
        writer.write_many(crossmodal.requests(items, wanted, settings.prompt_condition))
        if settings.visual_check:
            writer.write_many(_questions(settings, table))
    return writer.rows


def _questions(settings: PrepareData, table: _Images) -> Iterator[dict[str, Any]]:
    """The visual check; a picture that is missing or broken is an error here, as every question counts."""
    name, place = hub.parse(settings.visual_check).short, hub.resolve(settings.visual_check, kind="dataset")
    pictures = Pictures(place.parent if place.is_file() else place, settings.image_folder)
    wanted = {"validation": settings.validation_questions, "test": settings.test_questions}
    splits = split_questions(read_questions(settings.visual_check), wanted, settings.seed)
    for question in read_questions(settings.visual_check):
        if (split := splits.get(question["number"])) is None:
            continue
        row = Row(question["number"], f"visual_check:{name}", question["language"], question["image"], ())
        try:
            picture = pictures.check(row)
        except BrokenImage as error:
            where = f"{name}, question {row.number + 1}"
            raise InputError(f"{where}: {error}; set prepare_data.image_folder") from error
        table.add(picture.as_record(split))
        yield from question_requests([{**question, "image": picture.image_id, "split": split}])


def blank_image(side: int = 384) -> dict[str, Any]:
    """The picture that shows nothing: uniform mid-grey, as a row of ``images.parquet``."""

    image = {"bytes": images.encode_png(Image.new("RGB", (side, side), images.GREY)), "path": None}
    return {"image_id": images.BLANK, "split": "train", "image": image, "scene": None}
