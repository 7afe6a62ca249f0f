"""The data mixture: how many text rows of which language, and in which order rows reach the optimizer.

Three choices are not obvious.  *Temperature*: a language gets a share proportional to ``rows ** temperature``, so 0 is
equal shares and 1 is the pool as it is; a language that runs out gives what it has and the others share the rest, and
nothing is drawn twice.  *Order*: every optimizer step of a phase with text holds the same number of text rows (error
diffusion, off by one at most), and visual and text rows each come from their own seeded stream.  So all arms of a seed
see the same visual rows in the same order, and TR and its English control differ in the text rows alone.  *Text share
applies inside the phases that have text*: TR in the last third holds a third of the text rows of TR throughout.

Everything but :func:`arm_rows`, which reads the row files of a run, is a pure function, the same at both scales.  Try
it: ``language_quota({"es": 900, "ga": 10}, 100, temperature=0)``; ``rows, order = arm_rows(settings)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml

from textreg.data.images import BLANK
from textreg.data.rows import read_rows
from textreg.errors import InputError, did_you_mean
from textreg.settings import Tune

VISUAL, TEXT = 0, 1
PLACEHOLDER = "<image>"
REPLAYED = "replay.parquet"  # of the stage align: visual rows with the model's own answers

TEXT_FILES = {
    "multilingual": "text.parquet",
    "mono": "text_mono.parquet",
    "english": "text_control.parquet",
    "lists": "text_lists.parquet",
}


@dataclass(frozen=True)
class Quota:
    """Rows that one source gives in one language.  ``available`` is the size of that pool."""

    source: str
    language: str
    rows: int
    available: int


@dataclass(frozen=True)
class MixturePlan:
    """Who gives how much.  ``asked`` may exceed ``rows``: the pool was too small, and nothing was repeated to hide
    it.  ``wanted``: language -> weight, where shares were named.
    """

    quotas: tuple[Quota, ...]
    asked: int
    rule: str
    wanted: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(quota.rows for quota in self.quotas)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(quota.language for quota in self.quotas if quota.rows))

    def table(self) -> "pd.DataFrame":
        """``source, language, rows, share`` (share of all rows, 0..1), largest first: the content of
        ``mixture.csv``; where shares were named, ``wanted`` is that of the language.
        """

        total = max(self.rows, 1)
        rows = [(q.source, q.language, q.rows, q.rows / total) for q in self.quotas if q.rows]
        table = pd.DataFrame(rows, columns=["source", "language", "rows", "share"])
        if self.wanted:
            table["wanted"] = table["language"].map(self.wanted) / sum(self.wanted.values())
        return table.sort_values(["rows", "language", "source"], ascending=[False, True, True], ignore_index=True)

    def save(self, path: str | Path) -> None:
        self.table().to_csv(path, index=False, float_format="%.6f")

    def describe(self) -> str:
        """The lines to print before training."""
        lines = [f"text mixture: {self.rows} rows in {len(self.languages)} languages, {self.rule}"]
        lines += [
            f"  {row.language:<4} {row.rows:>8} rows {100 * row.share:>6.2f} %  {row.source}"
            + (f" (of {100 * row.wanted:.2f} % wanted)" if self.wanted else "")
            for row in self.table().itertuples()
        ]
        if self.rows < self.asked:
            lines.append(f"  the pool holds {self.asked - self.rows} rows fewer than the {self.asked} asked for")
        return "\n".join(lines)


@dataclass(frozen=True)
class LanguageShare:
    """Share (percent) of a language in Fig. 2; ``paper``: named in its caption, otherwise our choice."""

    language: str
    share: float
    paper: bool


@dataclass(frozen=True)
class RowOrder:
    """The rows of a training, in order.

    ``pool`` (int8, ``VISUAL`` or ``TEXT``) and ``index`` (int64, row within that pool) have ``steps * batch_size``
    entries. ``positions`` points into the visual rows followed by the text rows.  Repeats count rows that come a
    second time or more.
    """

    pool: np.ndarray
    index: np.ndarray
    visual_pool: int
    text_pool: int

    @property
    def positions(self) -> np.ndarray:
        return np.where(self.pool == TEXT, self.index + self.visual_pool, self.index)

    @property
    def text_rows(self) -> int:
        return int((self.pool == TEXT).sum())

    @property
    def visual_rows(self) -> int:
        return int((self.pool == VISUAL).sum())

    @property
    def text_repeats(self) -> int:
        return max(0, self.text_rows - self.text_pool)

    @property
    def visual_repeats(self) -> int:
        return max(0, self.visual_rows - self.visual_pool)

    def pairs(self) -> list[tuple[int, int]]:
        return list(zip(self.pool.tolist(), self.index.tolist(), strict=True))

    def describe(self) -> str:
        said = f"{self.visual_rows} visual rows and {self.text_rows} text rows"
        repeats = []
        if self.visual_repeats:
            repeats.append(f"{self.visual_repeats} visual rows are repeats (the pool holds {self.visual_pool})")
        if self.text_repeats:
            repeats.append(f"{self.text_repeats} text rows are repeats (the pool holds {self.text_pool})")
        return "; ".join([said, *repeats])


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to ``total`` in proportion to ``weights`` (>= 0); the earlier of equal remainders
    wins.
    """
    exact = np.asarray(weights, dtype=np.float64)
    if exact.size == 0 or exact.sum() <= 0:
        return [0] * exact.size
    exact = exact / exact.sum() * total
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole.tolist()


def fill(weights: Sequence[float], limits: Sequence[int], total: int) -> list[int]:
    """Like :func:`largest_remainder`, but no entry beyond its limit: what one cannot give, the others share."""
    given = [0] * len(limits)
    open_ = [i for i, limit in enumerate(limits) if limit > 0 and weights[i] > 0]
    left = min(total, sum(limits[i] for i in open_))
    while left > 0 and open_:
        parts = largest_remainder([weights[i] for i in open_], left)
        for i, part in zip(open_, parts, strict=True):
            step = min(part, limits[i] - given[i])
            given[i] += step
            left -= step
        open_ = [i for i in open_ if given[i] < limits[i]]
    return given


def language_quota(
    pool: Mapping[str, int], rows: int, *, temperature: float = 0.0, shares: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Rows of each language of ``pool`` (language -> rows available), ``rows`` in all unless the pool is smaller.

    ``temperature`` in 0..1, see the module; ``shares`` (language -> weight) replaces it, and a language it does not
    name gets nothing.  Keeps the pool's order.  Raises ``InputError`` on a temperature out of range.
    """
    if not 0.0 <= temperature <= 1.0:
        raise InputError(f"text temperature {temperature} is outside 0..1; 0 means equal shares, 1 the pool's own")
    if shares is None:
        weights = [float(count) ** temperature if count > 0 else 0.0 for count in pool.values()]
    else:
        weights = [float(shares.get(language, 0.0)) for language in pool]
    return dict(zip(pool, fill(weights, list(pool.values()), rows), strict=True))


def plan(
    pool: Mapping[tuple[str, str], int],
    rows: int,
    *,
    languages: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    temperature: float = 0.0,
    shares: Mapping[str, float] | None = None,
) -> MixturePlan:
    """The text mixture from ``pool``: (source, language) -> rows available.

    Languages are quoted first (:func:`language_quota`); inside a language the sources share by size.  ``held_out``
    languages never appear.  Raises ``InputError`` where a wanted language has no row in any source.
    """
    found = sorted({language for _, language in pool})
    wanted = [language for language in (found if languages is None else languages) if language not in set(held_out)]
    for language in wanted:
        if language not in found:
            raise InputError(
                f"no text row in language {language!r} in any source{did_you_mean(language, found)}; "
                "take it out of prepare_data.text_languages or add a source to prepare_data.text_data"
            )
    sizes = {lang: sum(n for (_, other), n in pool.items() if other == lang) for lang in wanted}
    by_language = language_quota(sizes, rows, temperature=temperature, shares=shares)
    quotas = []
    for language in wanted:
        sources = sorted(source for source, other in pool if other == language)
        limits = [pool[source, language] for source in sources]
        parts = fill([float(n) for n in limits], limits, by_language[language])
        quotas += [Quota(s, language, n, limit) for s, n, limit in zip(sources, parts, limits, strict=True)]
    if shares is None:
        return MixturePlan(tuple(quotas), rows, f"temperature {temperature:g}")
    named = {language: shares.get(language, 0.0) for language in wanted}
    return MixturePlan(tuple(quotas), rows, "the shares of Fig. 2 where known, ours elsewhere", named)


@cache
def paper_mixture() -> tuple[LanguageShare, ...]:
    """The shares of ``mixture_paper.yaml``, in percent, largest first as in the file."""
    data = yaml.safe_load(resources.files(__package__).joinpath("mixture_paper.yaml").read_text("utf-8"))
    return tuple(LanguageShare(code, float(v["share"]), bool(v["paper"])) for code, v in data["shares"].items())


def paper_shares() -> dict[str, float]:
    """Language -> percent: the ``shares`` argument that makes a Fig. 2-like mixture."""
    return {entry.language: entry.share for entry in paper_mixture()}


def _stream(size: int, wanted: int, seed: int, pool: int) -> np.ndarray:
    """``wanted`` row numbers of a pool: one shuffled pass after another."""
    passes = [
        np.random.default_rng([seed, pool, epoch]).permutation(size) for epoch in range(-(-wanted // max(size, 1)))
    ]
    return np.concatenate(passes)[:wanted] if passes else np.zeros(0, dtype=np.int64)


def compose(
    visual: int,
    text: int,
    *,
    text_share: float,
    steps: int,
    batch_size: int,
    phases: int = 3,
    seed: int = 0,
) -> RowOrder:
    """Plan which row is seen when.

    ``visual``, ``text``: rows in each pool.  ``phases``: text in the last third of the steps (1), the last two (2) or
    throughout (3).  Total rows are ``steps * batch_size`` whatever the share, so text rows take the place of visual
    ones.  A pool that is too small starts a new shuffled pass, and the order says so.  Raises ``InputError`` on an
    empty pool that is needed.
    """
    if phases not in (1, 2, 3):
        raise InputError(f"text_phases is {phases}; it is 1 (last third), 2 (last two thirds) or 3 (throughout)")
    if not 0.0 <= text_share <= 1.0:
        raise InputError(f"text_share is {text_share}; it is a fraction between 0 and 1")
    first = steps - steps * phases // 3
    on = np.clip(np.arange(steps + 1) - first, 0, None)
    # Half up rather than to even, so that 0.5 rows a step alternate 1, 0, 1, 0.
    quota = np.diff(np.floor(on * batch_size * text_share + 0.5).astype(np.int64))
    pool = np.zeros((steps, batch_size), dtype=np.int8)
    pool[np.arange(batch_size) < quota[:, None]] = TEXT
    pool = np.random.default_rng([seed, 2]).permuted(pool, axis=1).reshape(-1)
    needs = {"visual": (visual, int((pool == VISUAL).sum())), "text": (text, int((pool == TEXT).sum()))}
    for name, (size, wanted) in needs.items():
        if wanted and not size:
            raise InputError(f"the mixture needs {wanted} {name} rows and the {name} pool is empty; see prepare_data")
    index = np.zeros(pool.size, dtype=np.int64)
    index[pool == VISUAL] = _stream(visual, needs["visual"][1], seed, VISUAL)
    index[pool == TEXT] = _stream(text, needs["text"][1], seed, TEXT)
    return RowOrder(pool, index, visual, text)


def with_image(
    rows: "pd.DataFrame",
    option: Literal["none", "blank", "distractor"],
    image_ids: Sequence[str] = (),
    seed: int = 0,
) -> "pd.DataFrame":
    """Text-only rows as they are, behind the blank image, or behind an image that has nothing to do with them.

    A copy; the first user turn gets the placeholder.  ``image_ids``: what a distractor is drawn from (``InputError``
    if there is none).
    """
    if option == "none":
        return rows
    if option == "distractor" and not len(image_ids):
        raise InputError("text_image 'distractor' needs images to draw from and prepare_data/images.parquet has none")
    ids = [BLANK] * len(rows)
    if option == "distractor":
        drawn = np.random.default_rng([seed, 3]).integers(len(image_ids), size=len(rows))
        ids = [image_ids[i] for i in drawn]
    return rows.assign(image_id=ids, messages=[behind_image(messages) for messages in rows["messages"]])


def without_prompt(rows: "pd.DataFrame", kept: float, seed: int) -> "pd.DataFrame":
    """Rows whose first user turn is the image alone, but for a share ``kept`` (0..1) of them: LLaVA's first stage."""
    keeps = np.random.default_rng([seed, 4]).random(len(rows)) < kept
    turns = [
        messages if keep else [{"role": "user", "content": PLACEHOLDER}, *list(messages)[1:]]
        for messages, keep in zip(rows["messages"], keeps, strict=True)
    ]
    return rows.assign(messages=turns)


def behind_image(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same turns with the image placeholder in front of the first user turn."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
    turns[first]["content"] = f"{PLACEHOLDER}\n{turns[first]['content']}"
    return turns


def arm_rows(settings: Tune) -> tuple["pd.DataFrame", RowOrder]:
    """The pool of an arm (visual rows, then text rows) and the order in which training sees it.

    Visual rows that a published model answered itself take the place of the prepared ones.  An arm without text has a
    text share of 0.  Raises :class:`InputError` for a share without text, or a missing file.
    """

    folder = Path(settings.run) / "prepare_data"
    replayed = folder.parent / "align" / REPLAYED
    visual = read_rows(replayed if replayed.is_file() else folder / "visual.parquet")
    if settings.text == "none":
        order = compose(len(visual), 0, text_share=0.0, **_plan(settings))
        return visual, order
    if settings.text_share == 0.0:
        raise InputError(
            f"tune[{settings.arm}]: text={settings.text} with text_share 0; say text=none, or give a share"
        )
    text = read_rows(folder / TEXT_FILES[settings.text])
    text = with_image(text, settings.text_image, visual["image_id"].dropna().tolist(), settings.seed)
    order = compose(len(visual), len(text), text_share=settings.text_share, **_plan(settings))
    return pd.concat([visual, text], ignore_index=True), order


def _plan(settings: Tune) -> dict:
    return {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "phases": settings.text_phases,
        "seed": settings.seed,
    }


def rows_shown(rows: "pd.DataFrame", order: RowOrder) -> "pd.DataFrame":
    """What an arm is shown, for its log and its model card: ``source, language, image, rows, share``.

    ``image`` says whether the rows have one; the shares sum to 1.
    """
    seen = rows.iloc[order.positions]
    keys = [seen["source"], seen["language"], seen["image_id"].notna().rename("image")]
    table = seen.groupby(keys).size().rename("rows").reset_index()
    return table.assign(share=table["rows"] / len(seen)).sort_values(["image", "rows"], ascending=False)
