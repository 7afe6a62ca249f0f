"""95 % intervals and paired tests for shares of answers.

Resampling n answers with k distinct outcomes is drawing one multinomial over k counts, so nothing here touches an
answer more than once.  For right-or-wrong outcomes the bootstrap distribution of the share is a binomial, and its
quantiles are taken exactly instead of simulated.  If every answer is right (or wrong) resampling has nothing to vary;
the bounds are then Wilson's, because 200 right answers of 200 do not prove 100 %.  All results are shares in 0..1;
undefined is NaN.

Use: ``share_bounds(190, 200)``, ``paired_test(a, b)``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
_FEW = 64  # outcomes with at most so many distinct values are resampled by their counts


@dataclass(frozen=True)
class PairedTest:
    """Two measurements on the same items: the mean of ``a - b`` over defined pairs, its bounds and p-value.

    ``test`` names what gave the p-value (two-sided); everything is NaN if no pair is defined.
    """

    n: int
    difference: float
    low: float
    high: float
    p_value: float
    test: str


def share_bounds(
    hits: ArrayLike, n: ArrayLike, level: float = LEVEL, method: str = "bootstrap"
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of ``hits / n``, elementwise; NaN where n is 0.

    ``method``: ``bootstrap`` (percentile bootstrap over answers, exact; Wilson's bounds where all agree) or ``wilson``
    (Wilson 1927).  Always ``low <= hits / n <= high``.
    """

    from scipy.stats import binom, norm  # here and below: half a second that drawing what is measured does not need

    hits, n = np.broadcast_arrays(np.asarray(hits, float), np.asarray(n, float))
    if np.any((hits < 0) | (hits > n)):
        raise ValueError("hits must lie between 0 and n")
    some = np.where(n > 0, n, 1.0)
    share, z = hits / some, norm.ppf((1 + level) / 2)
    middle = (share + z**2 / (2 * some)) / (1 + z**2 / some)
    half = z / (1 + z**2 / some) * np.sqrt(share * (1 - share) / some + z**2 / (4 * some**2))
    low, high = middle - half, middle + half
    if method == "bootstrap":
        varied = (share > 0) & (share < 1)
        low = np.where(varied, binom.ppf((1 - level) / 2, some, share) / some, low)
        high = np.where(varied, binom.ppf((1 + level) / 2, some, share) / some, high)
    elif method != "wilson":
        raise ValueError(f"unknown method {method!r}: bootstrap or wilson")
    low, high = np.clip(low, 0, share), np.clip(high, share, 1)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def mean_bounds(values: ArrayLike, level: float = LEVEL, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap bounds of a mean; NaN values are left out, NaN bounds if none remains."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _FEW:
        means = rng.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)
        return _quantiles(means, level)

    from scipy.stats import bootstrap

    found = bootstrap(
        (values,), np.mean, n_resamples=resamples, batch=max(1, 2_000_000 // len(values)), confidence_level=level,
        method="percentile", rng=rng,
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def clustered_bounds(
    hits: ArrayLike, n: ArrayLike, level: float = LEVEL, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Bounds of ``sum(hits) / sum(n)`` when whole clusters (all answers about one item) are resampled; 1-d inputs."""
    return macro_bounds(np.asarray(hits, float)[:, None], np.asarray(n, float)[:, None], level, resamples, seed)


def macro_bounds(
    hits: ArrayLike, n: ArrayLike, level: float = LEVEL, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Bounds of the mean over columns of ``hits.sum(0) / n.sum(0)`` when rows (items) are resampled.

    hits, n: (items, languages), n = 0 where an item has no scored answer in a language.  Resampling items keeps
    together the answers about one image in all languages, which are not independent.  A column empty in a resample is
    left out of it.  Where all answers agree, Wilson's bounds for the number of items.
    """
    hits, n = np.asarray(hits, float), np.asarray(n, float)
    columns = n.sum(0) > 0
    if not columns.any():
        return np.nan, np.nan
    hits, n = hits[:, columns], n[:, columns]
    if not hits.any() or (hits == n).all():
        items = np.count_nonzero(n.sum(1))
        low, high = share_bounds(items * hits.any(), items, level)
        return float(low), float(high)
    patterns, counts = np.unique(np.hstack([hits, n]), axis=0, return_counts=True)
    if len(patterns) < len(n) / 4:  # items with the same outcomes are interchangeable
        weights = _resample_counts(counts, resamples, seed)
        hits, n = patterns[:, : hits.shape[1]], patterns[:, hits.shape[1] :]
    else:
        weights = _resample_counts(np.ones(len(n)), resamples, seed)
    means = []
    for part in weights:  # (resamples of the part, items)
        total = part @ n
        shares = np.divide(part @ hits, total, out=np.full(total.shape, np.nan), where=total > 0)
        means.append(np.nanmean(shares, axis=1)[~np.isnan(shares).all(axis=1)])
    return _quantiles(np.concatenate(means), level)


def _resample_counts(counts: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of rows that say how often each kind of item was drawn; a block stays under 4 million numbers."""
    rng = np.random.default_rng(seed)
    items, share = int(counts.sum()), counts / counts.sum()
    block = max(1, 4_000_000 // len(counts))
    for start in range(0, resamples, block):
        yield rng.multinomial(items, share, size=min(block, resamples - start)).astype(float)


def _quantiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    a: Sequence[float], b: Sequence[float], level: float = LEVEL, resamples: int = 1000, seed: int = 0
) -> PairedTest:
    """Compare two systems (or two arms) on the same items.

    a, b: equally long, item by item; pairs with a NaN are left out.  Right-or-wrong outcomes: McNemar's exact test on
    the discordant pairs; other values: a sign-flip permutation test (9999 permutations).  The bounds are a percentile
    bootstrap over pairs.
    """

    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) != len(b):
        raise ValueError(f"paired outcomes must be equally long, got {len(a)} and {len(b)}")
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    difference = a - b
    if not len(difference):
        return PairedTest(0, np.nan, np.nan, np.nan, np.nan, "none")
    mean = float(difference.mean())
    low, high = mean_bounds(difference, level, resamples, seed)
    low, high = min(low, mean), max(high, mean)
    if np.isin(np.concatenate([a, b]), (0, 1)).all():
        from scipy.stats import binomtest

        wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
        p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        return PairedTest(len(a), mean, low, high, float(p), "McNemar, exact")
    p = _sign_flip(difference, np.random.default_rng(seed)) if difference.any() else 1.0
    return PairedTest(len(a), mean, low, high, p, "sign-flip permutations")


def _sign_flip(difference: np.ndarray, rng: np.random.Generator, permutations: int = 9999) -> float:
    """Two-sided p-value of the mean when every difference could as well have the other sign.

    Differences of one size are interchangeable, so how many of them keep their sign is a binomial; only with many
    sizes scipy flips them one by one.
    """
    sizes, counts = np.unique(np.abs(difference), return_counts=True)
    if len(sizes) <= _FEW:
        kept = rng.binomial(counts, 0.5, size=(permutations, len(counts)))
        totals = np.abs((2 * kept - counts) @ sizes)
        extreme = int((totals >= abs(difference.sum()) * (1 - 1e-12)).sum())
        return (1 + extreme) / (1 + permutations)

    from scipy.stats import permutation_test

    found = permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        n_resamples=permutations,
        vectorized=True,
        batch=max(1, 2_000_000 // len(difference)),
        rng=rng,
    )
    return float(found.pvalue)
