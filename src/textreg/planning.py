"""The plan of a hub-scale run: rows, tokens, disk, memory and hours, from counted figures, before anything is
downloaded.

Nothing here touches the network or a GPU.  Work and memory come from the shapes of the models (``shapes``), rows from
the profile, sizes of well-known data sets from ``known_sizes.yaml``.  What cannot be counted is an assumption, and
every plan prints its assumptions: hours are for the stated share of a card's peak, not a measurement.

Try it: ``textreg run --profile gpu --dry-run``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textreg import hubs, shapes
from textreg.config import Align, Evaluate, Merge, PrepareData, Training, Tune
from textreg.errors import InputError
from textreg.shapes import LanguageModel, Tower

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from textreg.profiles import Profile

MFU = 0.35
READ_EFFICIENCY = 0.5
BYTES_A_TOKEN = 4
ANSWERED = 0.6  # share of a row's words that the assistant says
UNKNOWN_TEXT = 800  # bytes of a row of a data set without known size
PROMPT_TOKENS = 40
USABLE = 0.95  # of a card's memory


@dataclass(frozen=True)
class Work:
    """One unit of the run: what goes in, what comes out, and the FLOP and bytes read that it takes."""

    unit: str
    rows: int
    tokens: float
    flop: float
    read: float = 0.0


@dataclass(frozen=True)
class Size:
    """A download or an output on disk, in bytes, with where the number comes from."""

    name: str
    size: float
    source: str


@dataclass(frozen=True)
class Card:
    """A GPU under this plan.  ``micro``: rows of a micro-batch of tuning that fit, 0 where the run does not fit.

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
class Plan:
    """Everything the printed plan shows."""

    profile: str
    work: tuple[Work, ...]
    downloads: tuple[Size, ...]
    disk: tuple[Size, ...]
    cards: tuple[Card, ...]
    unknown: tuple[str, ...]
    assumptions: tuple[str, ...]


def plan(profile: "Profile", overrides: Sequence[str] = ()) -> Plan:
    """The plan of a hub-scale profile.  Raises ``InputError`` for a profile at another scale."""
    from textreg import profiles

    if profile.scale != "hub":
        raise InputError(
            f"profile {profile.name!r} is at scale {profile.scale!r}; only hub runs are planned for a GPU"
        )
    resolved = {unit.name: profiles.resolve(profile, unit.stage, unit.arm, overrides) for unit in profile.units}
    data = next(s for s in resolved.values() if isinstance(s, PrepareData))
    align = next(s for s in resolved.values() if isinstance(s, Align))
    evaluate = next((s for s in resolved.values() if isinstance(s, Evaluate)), None)
    tunes = {name: s for name, s in resolved.items() if isinstance(s, Tune)}
    merges = {name: s for name, s in resolved.items() if isinstance(s, Merge)}

    llm = shapes.find(align.vlm or align.llm, "llm")
    tower = shapes.find(align.vlm or align.tower, "tower")
    names = {align.vlm} if align.vlm else {align.llm, align.tower}
    shaped = ((align.vlm or align.llm, llm), (align.vlm or align.tower, tower))
    unknown = tuple(dict.fromkeys(name for name, shape in shaped if shape is None))
    downloads = tuple([*_model_downloads(names), *_data_downloads(data)])
    if not isinstance(llm, LanguageModel) or not isinstance(tower, Tower):
        return Plan(profile.name, (), downloads, (), (), unknown, _assumptions(align, None))

    work = [_training_work("align", align, 0, llm, tower, data)]
    work += [_training_work(name, tune, tune.rank, llm, tower, data) for name, tune in tunes.items()]
    requests = data.validation_images * len(data.languages)
    for name, merge in merges.items():
        work.append(_answer_work(name, requests * len(merge.lambdas), merge, llm, tower, 1.0))
    if evaluate is not None:
        asked = data.test_images * len(data.languages)
        systems = len(evaluate.systems) * len(evaluate.arms) + len(merges) * len(evaluate.frontier_lambdas)
        shown = (systems - len(evaluate.systems) * ("text" in evaluate.arms)) / systems
        work.append(_answer_work("evaluate", asked * systems, evaluate, llm, tower, shown))
    cards = tuple(_cards(work, [align, *tunes.values()], [*merges.values(), evaluate], llm, tower, data))
    disk = tuple(_disk(data, [align, *tunes.values()], len(merges), llm, tower))
    return Plan(profile.name, tuple(work), downloads, disk, cards, unknown, _assumptions(align, tower))


def _facts(name: str) -> dict[str, Any]:
    parts = hubs.parse(name)
    known = hubs.known()["datasets"]
    return known.get(f"{parts.base}:{parts.glob}") or known.get(parts.base) or {}


def _mean_tokens(names: Sequence[str]) -> float:
    """Words of a row in tokens, over sources weighted by their rows."""
    rows = [(_facts(name).get("rows", 1), _facts(name).get("text_bytes", UNKNOWN_TEXT)) for name in names]
    return sum(n * size for n, size in rows) / sum(n for n, _ in rows) / BYTES_A_TOKEN


def _text_rows(settings: Training) -> int:
    if not isinstance(settings, Tune) or settings.text == "none":
        return 0
    steps = settings.steps * settings.text_phases // 3
    return round(steps * settings.batch_size * settings.text_share)


def _words(settings: Training, data: PrepareData, tower: Tower) -> tuple[float, float]:
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
    seen, read = _words(settings, data, tower)
    tokens = (rows - text) * (seen + tower.patches) + text * read
    flop = 0.0
    for count, words, image in ((rows - text, seen, True), (text, read, False)):
        flop += count * shapes.train_work(
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
    flop = requests * shapes.answer_work(llm, tower, tokens=tokens, image=False) + requests * shown * tower.work
    read = requests / batch * shapes.decode_bytes(llm, tokens=tokens, batch=batch, new=new)
    return Work(unit, requests, requests * (tokens + new), flop, read)


def _cards(
    work: Sequence[Work],
    training: Sequence[Training],
    answering: Sequence[Merge | Evaluate | None],
    llm: LanguageModel,
    tower: Tower,
    data: PrepareData,
) -> Iterator[Card]:
    for name, facts in hubs.known()["gpus"].items():
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
    return shapes.answer_memory(llm, tower, tokens=tokens, batch=settings.batch_size, four_bit=four_bit)


def _largest(
    training: Sequence[Training], llm: LanguageModel, tower: Tower, data: PrepareData, room: float
) -> tuple[int, float]:
    """The largest micro-batch (power of two) with which every training fits, and its memory; (0, memory at 1) if
    none.
    """

    def memory(micro: int) -> float:
        peak = 0.0
        for settings in training:
            words, _ = _words(settings, data, tower)
            # A packed or unlucky row is as long as max_length allows.
            tokens = settings.max_length if settings.packing else words + tower.patches
            peak = max(
                peak,
                shapes.train_memory(
                    llm,
                    tower,
                    rank=settings.rank if isinstance(settings, Tune) else 0,
                    tokens=tokens,
                    scored=words * ANSWERED,
                    micro=micro,
                    checkpointing=settings.activation_checkpointing,
                    four_bit=settings.precision == "4bit",
                ),
            )
        return peak

    smallest = min(settings.batch_size for settings in training)
    sizes = [2**k for k in range(10) if 2**k <= smallest]
    fitting = [micro for micro in sizes if memory(micro) <= room]
    return (fitting[-1], memory(fitting[-1])) if fitting else (0, memory(1))


def _model_downloads(names: set[str]) -> Iterator[Size]:
    for name in sorted(names):
        facts = hubs.known()["models"].get(hubs.parse(name).base)
        if facts is not None and not hubs.parse(name).local:
            yield Size(name, facts["download"], f"{facts['mark']}: {facts['source']}")


def _data_downloads(data: PrepareData) -> Iterator[Size]:
    for name in dict.fromkeys([data.align_data, *data.visual_data, *data.text_data, data.evaluation_data]):
        facts = _facts(name)
        if hubs.parse(name).local:
            continue
        yield Size(
            name,
            facts.get("download", 0),
            f"{facts['mark']}: {facts['source']}" if facts else "size not known here",
        )


def _disk(
    data: PrepareData, training: Sequence[Training], merges: int, llm: LanguageModel, tower: Tower
) -> Iterator[Size]:
    images = data.align_rows * _facts(data.align_data).get("image_bytes", 100_000)
    images += data.visual_rows * max(_facts(name).get("image_bytes", 100_000) for name in data.visual_data)
    images += (data.validation_images + data.test_images) * _facts(data.evaluation_data).get("image_bytes", 100_000)
    yield Size("prepare_data: pictures", 0 if data.image_folder else images, "rows times the mean picture")
    if any(settings.cache_features for settings in training):
        kept = (data.align_rows + data.visual_rows) * tower.feature_bytes
        yield Size("features of the frozen tower", kept, f"{tower.feature_bytes / 1e6:.2f} MB a picture, bf16")
    adapters = sum(4 * llm.adapter(s.rank) for s in training if isinstance(s, Tune))
    adapters += 4 * shapes.projector(tower, llm) * len(training)
    yield Size("adapters and projectors", adapters, "fp32")
    yield Size(f"{merges} merged checkpoints", merges * merged_bytes(llm, tower), "bf16")
    held = max((12 * llm.adapter(s.rank) for s in training if isinstance(s, Tune)), default=0)
    if any(settings.checkpoint_steps for settings in training):
        yield Size("checkpoint of the running training", held, "adapter and its Adam moments, removed at the end")


def merged_bytes(llm: LanguageModel, tower: Tower) -> float:
    """Bytes of a merged checkpoint in bf16."""
    return shapes.BF16 * (llm.parameters + tower.parameters + shapes.projector(tower, llm))


def _assumptions(align: Align, tower: Tower | None) -> tuple[str, ...]:
    lines = [
        f"hours: {MFU:.0%} of the card's dense bf16 peak (assumed MFU), decoding at {READ_EFFICIENCY:.0%} of its "
        "memory bandwidth",
        f"{BYTES_A_TOKEN} bytes a token; {ANSWERED:.0%} of a row's words are the assistant's",
        f"memory: bf16 weights, {shapes.TRAINED} bytes a trained parameter, 8 % and 1.5 GB for the allocator; "
        f"{USABLE:.0%} of a card is used",
        "merge asks the validation images in every language, image arm only",
        "not counted: downloading, decoding of pictures, the identifier, the judge and the stage mechanism",
    ]
    if tower is not None:
        lines.insert(1, f"{tower.patches} image tokens; the tower runs on every image it is shown")
    return tuple(lines)


def tables(plan: Plan) -> "Iterator[Table]":
    """The plan as tables for a terminal."""
    from rich.table import Table

    work = Table("unit", "rows", "million tokens", "PFLOP", title=f"Plan of profile {plan.profile}")
    for item in plan.work:
        work.add_row(item.unit, f"{item.rows:,}", f"{item.tokens / 1e6:,.1f}", f"{item.flop / 1e15:,.0f}")
    yield work
    for title, sizes in (("Downloads", plan.downloads), ("On disk", plan.disk)):
        table = Table("what", "GB", "from", title=f"{title}: {sum(item.size for item in sizes) / 1e9:,.1f} GB")
        for item in sizes:
            table.add_row(item.name, f"{item.size / 1e9:,.2f}" if item.size else "?", item.source)
        yield table
    cards = Table("GPU", "fits", "micro-batch", "peak GB", "align h", "tune h", "answers h", "all h", title="Hours")
    for card in plan.cards:
        groups = [sum(h for unit, h in card.hours.items() if unit.startswith(kind)) for kind in ("align", "tune")]
        total = sum(card.hours.values())
        cells = [f"{value:,.1f}" for value in (*groups, total - sum(groups), total)] if card.fits else ["-"] * 4
        micro = str(card.micro) if card.fits else "-"
        cards.add_row(card.name, "yes" if card.fits else "no", micro, f"{card.memory / 1e9:,.1f}", *cells)
    yield cards


def show(plan: Plan, console: "Console | None" = None) -> None:
    """Print the plan with its assumptions, and what is not known."""
    from rich.console import Console

    console = console or Console()
    for table in tables(plan):
        console.print(table)
    for name in plan.unknown:
        console.print(f"nothing is known here of {name}: no hours or memory; give a local folder to count it")
    for line in plan.assumptions:
        console.print(f"assumed: {line}")
