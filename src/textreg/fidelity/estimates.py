"""Estimates with intervals over everything that was drawn: backbones, tuning seeds, scenes and languages.

A point is a system, an arm and a measure; an estimate is the mean of a point, or of a weighted sum of several on the
same requests (a difference, a difference of differences).  Not obvious: languages count alike (a mean of their means);
the bootstrap draws backbones, of each its seeds, of each seed its items, and the languages once for all, because a
language is as hard for every seed; with one run it draws items and languages alone.  Equivalence is decided by the
90 % interval (two one-sided tests), all else by 95 %.

Use: ``estimate(verdicts, [(1, Point("TR", "image", "lf_plus")), (-1, Point("BM", "image", "lf_plus"))])``.  Ours,
after the hierarchical bootstrap (Davison & Hinkley 1997, section 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from textreg.errors import InputError, did_you_mean
from textreg.fidelity.annotation import ENGLISH

RUN = ["backbone", "seed"]
KEYS = [*RUN, "item_id", "language"]
CAPTION = "caption"
CLASSES = ("asked", "english", "other", "mixed", "short", "empty")


class Point(NamedTuple):
    """What is measured.  ``measure``: a column of the verdicts, or a class of answers (share of all answers);
    ``task``: captions, questions of every kind, or one kind; ``languages``: all but English, English, or some.
    """

    system: str
    arm: str
    measure: str
    task: str = CAPTION
    languages: Literal["foreign", "en"] | tuple[str, ...] = "foreign"


@dataclass(frozen=True)
class Estimate:
    """Mean and bounds (0..1, or -1..1 for a difference); NaN where nothing was measured.  ``narrow``: 90 % bounds."""

    value: float
    low: float
    high: float
    narrow: tuple[float, float]
    runs: int
    items: int


def estimate(
    verdicts: pd.DataFrame, terms: Sequence[tuple[float, Point]], *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """The mean of the weighted sum of points, on the requests that all of them have.

    verdicts: one row per answer with ``backbone, seed, system, arm, task, language, item_id`` and the measures.
    Answers whose measure is undefined are left out, with their pair.
    """
    parts = [weight * cells(verdicts, point) for weight, point in terms]
    values = pd.concat(parts, axis=1, join="inner").sum(axis=1)
    if values.empty:
        nothing = float("nan")
        return Estimate(nothing, nothing, nothing, (nothing, nothing), 0, 0)
    table = values.unstack("language")  # [items of all runs, languages]
    runs = [[run.to_numpy() for _, run in group.groupby("seed")] for _, group in table.groupby("backbone")]
    alike = np.ones(table.shape[1])
    middle = float(np.mean([np.mean([_macro(run, np.ones((1, len(run))), alike) for run in group]) for group in runs]))
    drawn = _resampled(runs, _draws(tuple(tuple(map(len, group)) for group in runs), table.shape[1], seed, resamples))
    low, high, near, far = np.nanquantile(drawn, [0.025, 0.975, 0.05, 0.95])
    return Estimate(middle, float(low), float(high), (float(near), float(far)), sum(map(len, runs)), len(table))


class _Draws(NamedTuple):
    """What a bootstrap draws: how often each language, ``(resamples, languages)``; then backbone, place of its seed,
    the resamples that drew these, and how often they drew each item, ``(resamples of these, items)``."""

    spoken: np.ndarray
    of_runs: list[tuple[int, int, np.ndarray, np.ndarray]]


@lru_cache(maxsize=8)  # the estimates of a page have few shapes between them, and drawing is most of their time
def _draws(items: tuple[tuple[int, ...], ...], languages: int, seed: int, resamples: int) -> _Draws:
    """The draws for so many items by backbone and seed, and so many languages."""
    rng = np.random.default_rng([seed, 36])
    found = _Draws(_counts(rng, languages, resamples), [])
    for _ in items:  # a place that a backbone is drawn for
        chosen = rng.integers(len(items), size=resamples)
        for number, group in enumerate(items):
            mine = np.flatnonzero(chosen == number)
            for _ in group:  # a place that one of its seeds is drawn for
                seeds = rng.integers(len(group), size=len(mine))
                for place, size in enumerate(group):
                    rows = mine[seeds == place]
                    found.of_runs.append((number, place, rows, _counts(rng, size, len(rows))))
    return found


def _resampled(runs: Sequence[Sequence[np.ndarray]], draws: _Draws) -> np.ndarray:
    """The mean of every resample ``(resamples,)``; ``runs``: by backbone and seed, ``(items, languages)`` each."""
    totals = np.zeros(len(draws.spoken))
    for number, place, rows, weights in draws.of_runs:
        group = runs[number]
        totals[rows] += _macro(group[place], weights, draws.spoken[rows]) / (len(group) * len(runs))
    return totals


def cells(verdicts: pd.DataFrame, point: Point) -> pd.Series:
    """The measure of every answer of a point (float), by backbone, seed, item and language."""
    rows = verdicts[(verdicts["system"] == point.system) & (verdicts["arm"] == point.arm)]
    if point.task == "questions":
        rows = rows[rows["task"] != CAPTION]
    else:
        rows = rows[rows["task"] == point.task]
    if point.languages == "foreign":
        rows = rows[rows["language"] != ENGLISH]
    else:
        wanted = [point.languages] if isinstance(point.languages, str) else list(point.languages)
        rows = rows[rows["language"].isin(wanted)]
    if point.measure == "english_of_lost":  # of the answers that are not in the asked language
        values = (rows["class"] == "english").astype(float).where(rows["class"] != "asked")
    elif point.measure in rows.columns:
        values = rows[point.measure].astype("Float64").astype(float)
    elif "class" in rows and point.measure in CLASSES:
        values = (rows["class"] == point.measure).astype(float)
    else:
        raise InputError(f"unknown measure {point.measure!r}{did_you_mean(point.measure, [*rows.columns, *CLASSES])}")
    return values.set_axis(pd.MultiIndex.from_frame(rows[KEYS])).dropna()


def _macro(values: np.ndarray, items: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    """Mean over languages of the means over items, ``(draws,)``: ``values`` ``(items, languages)``, weighted by
    ``items`` ``(draws, items)`` and ``spoken`` ``(draws or nothing, languages)``, how often each was drawn.
    """
    known = ~np.isnan(values)
    totals = items @ known  # (draws, languages)
    means = (items @ np.where(known, values, 0.0)) / np.where(totals > 0, totals, 1)
    shares = (totals > 0) * spoken
    weights = shares.sum(1)
    return np.where(weights > 0, (means * shares).sum(1) / np.where(weights > 0, weights, 1), np.nan)


def _counts(rng: np.random.Generator, size: int, draws: int) -> np.ndarray:
    """How often each of ``size`` is drawn in ``size`` draws with replacement: ``(draws, size)``."""
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)


@dataclass(frozen=True)
class Bound:
    """What is promised of an estimate: at least, at most, or within +- of zero."""

    at_least: float | None = None
    at_most: float | None = None
    within: float | None = None

    def verdict(self, found: Estimate) -> Literal["met", "missed", "undecided", "undefined"]:
        """Met or missed where the interval says so whole, else undecided; ``undefined`` where nothing was measured."""
        if np.isnan(found.value):
            return "undefined"
        if self.within is not None:
            low, high = found.narrow
            inside, outside = -self.within <= low and high <= self.within, low > self.within or high < -self.within
        elif self.at_least is not None:
            inside, outside = found.low >= self.at_least, found.high < self.at_least
        else:
            inside, outside = found.high <= self.at_most, found.low > self.at_most
        return "met" if inside else "missed" if outside else "undecided"
