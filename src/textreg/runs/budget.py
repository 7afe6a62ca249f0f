"""The budget of a hub-scale run: rows, tokens, disk, memory and hours, from counted figures, before any download.

Nothing here touches the network or a GPU.  Work, memory and bytes come from :mod:`textreg.runs.sizes`, rows from the
profile.  What cannot be counted is an assumption, and every budget prints its assumptions: hours are for the stated
share of a card's peak, not a measurement.  A total that lacks a size says "at least"; a machine that the run does not
fit shows no hours.

Try it: ``textreg run --profile gpu --dry-run``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from textreg.errors import InputError
from textreg.runs import profiles, sizes
from textreg.runs.sizes import LanguageModel, Size, Tower, Unplannable
from textreg.settings import Align, Evaluate, Merge, PrepareData, Training, Tune

if TYPE_CHECKING:
    from textreg.runs.profiles import Profile

MFU = 0.35
READ_EFFICIENCY = 0.5
BYTES_A_TOKEN = 4
ANSWERED = 0.6  # share of a row's words that the assistant says
UNKNOWN_TEXT = 800  # bytes of a row of a data set without known size
PROMPT_TOKENS = 40
USABLE = 0.9  # of a card's memory: the probe for the micro-batch leaves a tenth free


@dataclass(frozen=True)
class Work:
    """One unit of the run: what goes in, what comes out, and the FLOP and bytes read that it takes."""

    unit: str
    rows: int
    tokens: float
    flop: float
    read: float = 0.0


@dataclass(frozen=True)
class Card:
    """A GPU under this budget.  ``micro``: rows of a micro-batch of tuning that fit, 0 where the run does not fit.

    ``hours``: unit -> hours; empty where it does not fit.  ``memory``: bytes of the largest stage at that micro-batch.
    """

    name: str
    capacity: float
    micro: int
    memory: float
    hours: dict[str, float]

    @property
    def fits(self) -> bool:
        return self.micro > 0


@dataclass(frozen=True)
class Budget:
    """Everything that is printed.  ``unknown``: models of which too little is known, with the reason.

    ``downloads``, ``disk`` and ``host`` (memory of the machine beside the GPU): sizes in bytes, 0 where not known.
    """

    profile: str
    work: tuple[Work, ...]
    downloads: tuple[Size, ...]
    disk: tuple[Size, ...]
    host: tuple[Size, ...]
    cards: tuple[Card, ...]
    unknown: tuple[str, ...]
    assumptions: tuple[str, ...]


def estimate(profile: "Profile", overrides: Sequence[str] = ()) -> Budget:
    """The budget of a hub-scale profile.  Raises ``InputError`` for a profile at another scale."""

    if profile.scale != "hub":
        raise InputError(
            f"profile {profile.name!r} is at scale {profile.scale!r}; only hub runs are planned for a GPU"
        )
    resolved = {unit.name: profiles.resolve(profile, unit.stage, unit.arm, overrides) for unit in profile.units}
    # Of a profile that leaves these two stages to another run, the settings still say what is read.
    data = profiles.resolve(profile, "prepare_data", overrides=overrides)
    align = profiles.resolve(profile, "align", overrides=overrides)
    assert isinstance(data, PrepareData) and isinstance(align, Align)
    evaluate = next((s for s in resolved.values() if isinstance(s, Evaluate)), None)
    tunes = {name: s for name, s in resolved.items() if isinstance(s, Tune)}
    merges = {name: s for name, s in resolved.items() if isinstance(s, Merge)}

    unknown: dict[str, str] = {}
    llm = _known(align.vlm or align.llm, "llm", unknown)
    tower = _known(align.vlm or align.tower, "tower", unknown)
    trainings = [align, *tunes.values()]
    downloads = tuple(sizes.downloads(align, data, evaluate))
    disk = tuple(sizes.disk(data, trainings, len(merges), llm, tower))
    reasons = tuple(unknown.values())
    if not isinstance(llm, LanguageModel) or not isinstance(tower, Tower):
        return Budget(profile.name, (), downloads, disk, (), (), reasons, _assumptions(align, None))

    work = [_training_work("align", align, 0, llm, tower, data)] if "align" in resolved else []
    work += [_training_work(name, tune, tune.rank, llm, tower, data) for name, tune in tunes.items()]
    requests = data.validation_images * len(data.languages)
    for name, merge in merges.items():
        work.append(_answer_work(name, requests * len(merge.lambdas), merge, llm, tower, 1.0))
    if evaluate is not None and evaluate.systems:
        asked = data.test_images * len(data.languages)
        systems = len(evaluate.systems) * len(evaluate.arms) + len(merges) * len(evaluate.frontier_lambdas)
        shown = (systems - len(evaluate.systems) * ("text" in evaluate.arms)) / systems
        work.append(_answer_work("evaluate", asked * systems, evaluate, llm, tower, shown))
    cards = tuple(_cards(work, trainings, [*merges.values(), evaluate], llm, tower, data))
    host = tuple(sizes.host(data, trainings, len(merges), evaluate, llm, tower))
    return Budget(profile.name, tuple(work), downloads, disk, host, cards, reasons, _assumptions(align, tower))


def _known(name: str, kind: Literal["llm", "tower"], unknown: dict[str, str]) -> LanguageModel | Tower | None:
    """The shape of a model; where it cannot be told, the reason goes into ``unknown``, for a run needs no budget."""
    try:
        shape = sizes.find(name, kind)
    except Unplannable as error:
        unknown.setdefault(name, str(error))
        return None
    if shape is None:
        unknown.setdefault(name, f"{name}: nothing is known of it here, give a local folder to count it")
    return shape


def _mean_tokens(names: Sequence[str]) -> float:
    """Words of a row in tokens, over sources weighted by their rows."""
    known = [sizes.facts(name) for name in names]
    rows = [(facts.get("rows", 1), facts.get("text_bytes", UNKNOWN_TEXT)) for facts in known]
    return sum(n * size for n, size in rows) / sum(n for n, _ in rows) / BYTES_A_TOKEN


def _text_rows(settings: Training) -> int:
    if not isinstance(settings, Tune) or settings.text == "none":
        return 0
    steps = settings.steps * settings.text_phases // 3
    return round(steps * settings.batch_size * settings.text_share)


def row_words(settings: Training, data: PrepareData, tower: Tower) -> tuple[float, float]:
    """Text tokens of a row with an image and of a text-only row, cut at ``max_length``."""
    visual = data.visual_data if isinstance(settings, Tune) else [data.align_data]
    room = settings.max_length - tower.patches
    if room <= 0:
        raise InputError(
            f"max_length {settings.max_length} leaves no room for words after {tower.patches} image tokens; "
            f"raise it to {tower.patches + 256} or more"
        )
    return min(_mean_tokens(visual), room), min(_mean_tokens(data.text_data), settings.max_length)


def _training_work(
    unit: str, settings: Training, rank: int, llm: LanguageModel, tower: Tower, data: PrepareData
) -> Work:
    rows, text = settings.steps * settings.batch_size, _text_rows(settings)
    seen, read = row_words(settings, data, tower)
    tokens = (rows - text) * (seen + tower.patches) + text * read
    flop = 0.0
    for count, words, image in ((rows - text, seen, True), (text, read, False)):
        flop += count * sizes.train_work(
            llm,
            tower,
            rank=rank,
            image=image,
            words=words,
            scored=words * ANSWERED,
            checkpointing=settings.activation_checkpointing,
        )
    return Work(unit, rows, tokens, flop)


def _answer_work(
    unit: str, requests: int, settings: Merge | Evaluate, llm: LanguageModel, tower: Tower, shown: float
) -> Work:
    """Requests of which the share ``shown`` holds an image (its own or a blank one)."""
    new, batch = settings.max_new_tokens, settings.batch_size
    tokens = PROMPT_TOKENS + shown * tower.patches
    flop = requests * sizes.answer_work(llm, tower, tokens=tokens, image=False) + requests * shown * tower.work
    read = requests / batch * sizes.decode_bytes(llm, tokens=tokens, batch=batch, new=new)
    return Work(unit, requests, requests * (tokens + new), flop, read)


def _cards(
    work: Sequence[Work],
    training: Sequence[Training],
    answering: Sequence[Merge | Evaluate | None],
    llm: LanguageModel,
    tower: Tower,
    data: PrepareData,
) -> Iterator[Card]:
    for name, facts in sizes.known_sizes()["gpus"].items():
        capacity = facts["memory"] * 1e9
        micro, memory = _largest(training, llm, tower, data, capacity * USABLE)
        answer = (
            max(_answer_memory(settings, llm, tower) for settings in answering if settings) if any(answering) else 0
        )
        if answer > capacity * USABLE:
            micro = 0
        hours = {
            item.unit: (
                item.flop / (facts["tflops"] * 1e12 * MFU) + item.read / (facts["bandwidth"] * 1e9 * READ_EFFICIENCY)
            )
            / 3600
            for item in work
        }
        yield Card(name, capacity, micro, max(memory, answer), hours if micro else {})


def _answer_memory(settings: Merge | Evaluate, llm: LanguageModel, tower: Tower) -> float:
    tokens = PROMPT_TOKENS + tower.patches + settings.max_new_tokens
    four_bit = settings.precision == "4bit"
    # Every worker of an evaluation holds a model of its own, and all of them are on the one card.
    models = settings.workers if isinstance(settings, Evaluate) else 1
    return models * sizes.answer_memory(llm, tower, tokens=tokens, batch=settings.batch_size, four_bit=four_bit)


def _largest(
    training: Sequence[Training], llm: LanguageModel, tower: Tower, data: PrepareData, room: float
) -> tuple[int, float]:
    """The largest micro-batch (power of two) with which every training fits, and its memory; (0, memory at 1) if
    none.

    Counted as the probe of a training tries it: on its longest rows, which are as long as ``max_length`` allows.
    """

    def memory(micro: int) -> float:
        peak = 0.0
        for settings in training:
            # Of a row with an image the patches are not scored; a text-only row can be scored nearly whole.
            scored = settings.max_length - (0 if _text_rows(settings) else tower.patches)
            peak = max(
                peak,
                sizes.train_memory(
                    llm,
                    tower,
                    rank=settings.rank if isinstance(settings, Tune) else 0,
                    tokens=settings.max_length,
                    scored=scored * ANSWERED,
                    micro=micro,
                    checkpointing=settings.activation_checkpointing,
                    four_bit=settings.precision == "4bit",
                ),
            )
        return peak

    smallest = min(settings.batch_size for settings in training)
    trials = [2**k for k in range(10) if 2**k <= smallest]
    fitting = [micro for micro in trials if memory(micro) <= room]
    return (fitting[-1], memory(fitting[-1])) if fitting else (0, memory(1))


def _assumptions(align: Align, tower: Tower | None) -> tuple[str, ...]:
    lines = [
        f"hours: {MFU:.0%} of the card's dense bf16 peak (assumed MFU), decoding at {READ_EFFICIENCY:.0%} of its "
        "memory bandwidth",
        f"{BYTES_A_TOKEN} bytes a token; {ANSWERED:.0%} of a row's words are the assistant's",
        f"memory: bf16 weights, {sizes.TRAINED} bytes a trained parameter, 8 % and 1.5 GB for the allocator; "
        f"{USABLE:.0%} of a card is used, counted with rows of max_length, for the probe tries the longest",
        "merge asks the validation images in every language, image arm only",
        "memory of the host: Python, its libraries and the tables of words are not counted",
        "not counted: downloading, decoding of pictures, the identifier, the judge and the stage mechanism",
    ]
    if tower is not None:
        lines.insert(1, f"{tower.patches} image tokens; the tower runs on every image it is shown")
    return tuple(lines)


def tables(budget: Budget) -> "Iterator[Table]":
    """The budget as tables for a terminal."""

    work = Table("unit", "rows", "million tokens", "PFLOP", title=f"Plan of profile {budget.profile}")
    for item in budget.work:
        work.add_row(item.unit, f"{item.rows:,}", f"{item.tokens / 1e6:,.1f}", f"{item.flop / 1e15:,.0f}")
    yield work
    for title, found, whole in (
        ("Downloads", budget.downloads, True),
        ("On disk", budget.disk, not budget.unknown),
        ("Memory of the host", budget.host, True),
    ):
        if found:
            total = max(item.size for item in found) if found is budget.host else sum(item.size for item in found)
            yield _sizes(title, found, total, whole)
    cards = Table("GPU", "fits", "micro-batch", "peak GB", "align h", "tune h", "answers h", "all h", title="Hours")
    for card in budget.cards:
        groups = [sum(h for unit, h in card.hours.items() if unit.startswith(kind)) for kind in ("align", "tune")]
        total = sum(card.hours.values())
        cells = [f"{value:,.1f}" for value in (*groups, total - sum(groups), total)] if card.fits else ["-"] * 4
        micro = str(card.micro) if card.fits else "-"
        cards.add_row(card.name, "yes" if card.fits else "no", micro, f"{card.memory / 1e9:,.1f}", *cells)
    yield cards


def _sizes(title: str, listed: Sequence[Size], total: float, whole: bool) -> "Table":

    least = "" if whole and all(item.size for item in listed) else "at least "
    table = Table("what", "GB", "from", title=f"{title}: {least}{total / 1e9:,.1f} GB")
    for item in listed:
        table.add_row(item.name, f"{item.size / 1e9:,.2f}" if item.size else "?", item.source)
    return table


def show(budget: Budget, console: "Console | None" = None) -> None:
    """Print the budget with its assumptions, and what is not known."""

    console = console or Console()
    for table in tables(budget):
        console.print(table)
    for reason in budget.unknown:
        console.print(f"no hours or memory: {reason}")
    for line in budget.assumptions:
        console.print(f"assumed: {line}")
