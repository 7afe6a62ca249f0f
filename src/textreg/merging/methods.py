"""Merge methods: what becomes of one weight tensor, as pure float32 functions.

With one tuned model and its base every task-vector method is ``base + lambda * f(tuned - base)``, and only ``f``
differs: identity (linear = task arithmetic), keep the largest (trim = TIES with one model), keep the largest but for
the very largest (breadcrumbs), keep a random share and rescale (drop = DARE).  SLERP turns instead of adding.  TIES
and model stock need several tuned models to mean anything of their own.

Choices: statistics (thresholds, angles) are of the *whole* tensor, yet computed block by block, so a large embedding
needs no more memory than a small one and the block size changes nothing; thresholds are exact (a two-pass radix
selection on the bits of the magnitude), equal magnitudes are kept in storage order, because bf16 differences tie in
large numbers; the random mask is seeded by tensor name and block, so shards and layout do not change it.  Arrays are
numpy's: importing torch would take longer than merging a gigabyte.

    merge_tensors(base, [tuned], Recipe("trim", lam=0.5, density=0.2))
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from textreg.errors import InputError, did_you_mean
from textreg.vlm.layouts import first_match

if TYPE_CHECKING:
    import torch

Read = Callable[[int, int], tuple[np.ndarray, list[np.ndarray]]]

METHODS = {
    "linear": "base + lambda * mean(tuned - base): linear interpolation, task arithmetic, a LoRA at scale lambda",
    "slerp": "rotation from base towards tuned by the share lambda of the angle between them (Shoemake 1985)",
    "trim": "only the `density` share of largest changes (TIES-Merging, Yadav et al. 2023, with one tuned model)",
    "drop": "a random `density` share of changes, rescaled by 1/density (DARE, Yu et al. 2024)",
    "breadcrumbs": "trim that also leaves out the `gamma` share of very largest changes (Davari and Belilovsky 2024)",
    "ties": "several tuned models: trim, elect a sign, average those that agree (Yadav et al. 2023, section 4)",
    "model_stock": "several tuned models: towards their mean, as far as their angle says (Jang et al. 2024)",
}
ALIASES = {"task_arithmetic": "linear", "dare": "drop", "dare_linear": "drop", "lerp": "linear"}
BLOCK = 1 << 18  # elements per block: larger falls out of the cache, smaller costs calls; unit of the random mask
ROW = 1 << 13  # elements per float32 sum of products; short sums stay exact, and BLAS takes no threads for them
LARGEST = 100.0  # lambda: beyond, nothing of either model is left
FLAT = 1e-4  # angle (radians) below which slerp and linear differ by less than float32 can hold


@dataclass(frozen=True)
class Recipe:
    """A method and its numbers.

    ``lam`` (lambda) is the step from base (0) to tuned (1); ``patterns`` gives single layers or modules their own
    (shell-style patterns on canonical names, the first match wins).  ``density`` is the share of changes kept (0 to
    1), ``gamma`` the share of largest changes left out by breadcrumbs.  Raises :class:`InputError` for an unknown
    method or a number out of range.
    """

    method: str = "linear"
    lam: float = 0.5
    density: float = 1.0
    gamma: float = 0.0
    seed: int = 0
    patterns: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        method = ALIASES.get(self.method, self.method)
        if method not in METHODS:
            raise InputError(f"unknown merge method {self.method!r}{did_you_mean(self.method, METHODS)}")
        object.__setattr__(self, "method", method)
        for name, value in {"lambda": self.lam, **self.patterns}.items():
            low, high = (0, 1) if method == "slerp" else (-LARGEST, LARGEST)
            if not low <= value <= high:
                raise InputError(f"lambda {value} ({name}) is out of range {low:g} to {high:g}")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative; a seed is a whole number from 0 on")
        if not 0 < self.density <= 1:
            raise InputError(f"density {self.density} is not in 0 (exclusive) to 1: the share of changes that is kept")
        if not 0 <= self.gamma < 1 or (method == "breadcrumbs" and self.gamma + self.density > 1 + 1e-9):
            raise InputError(
                f"gamma {self.gamma} and density {self.density} leave nothing: their sum may be 1 at most"
            )

    def check_models(self, tuned: int) -> None:
        """Raises :class:`InputError` when the method does not fit the number of tuned models."""
        if self.method in {"slerp", "trim"} and tuned != 1:
            raise InputError(f"{self.method} takes one tuned model, not {tuned}; for several use ties or linear")
        if self.method == "model_stock" and tuned < 2:
            raise InputError("model_stock needs two or more tuned models: its step comes from the angle between them")
        if self.method == "model_stock" and self.patterns:
            raise InputError("model_stock finds its own step; patterns of lambda have no meaning with it")

    def remarks(self, tuned: int) -> list[str]:
        """What deserves a word though it is allowed."""
        said = [
            f"lambda {value:g} ({name}) is outside 0 to 1: it goes beyond the two models"
            for name, value in {"all": self.lam, **self.patterns}.items()
            if not 0 <= value <= 1
        ]
        sparse = {"trim", "drop", "breadcrumbs", "ties"}
        idle = {"density": self.density < 1 and self.method not in sparse, "lambda": self.method == "model_stock",
                "gamma": self.gamma > 0 and self.method != "breadcrumbs"}  # fmt: skip
        said += [f"{name} has no meaning with {self.method}: it changed nothing" for name in idle if idle[name]]
        return said + (["ties with one tuned model is trim"] if self.method == "ties" and tuned == 1 else [])

    def at(self, name: str) -> float:
        """Lambda for the tensor ``name`` (as stored, or canonical)."""
        return first_match(name, self.patterns, self.lam)


@dataclass
class Cut:
    """The ``k`` largest magnitudes of a tensor: all above ``threshold`` (bits) and the first ``ties`` that equal
    it."""

    threshold: int
    ties: int

    def mask(self, bits: np.ndarray) -> np.ndarray:
        """Boolean mask of one block [n]; blocks must come in storage order, for the ties are counted down."""
        kept = bits > self.threshold
        if self.ties:
            equal = bits == self.threshold
            kept |= equal & (equal.cumsum() <= self.ties)
            self.ties = max(0, self.ties - int(np.count_nonzero(equal)))
        return kept


@dataclass(frozen=True)
class Merged:
    """One merged block: elements ``start`` to ``stop``, ``values`` [stop - start] float32, and squared norms."""

    start: int
    stop: int
    values: np.ndarray
    change: float  # sum over elements of the squared change of the tuned models, averaged over models
    base: float  # sum of squares of the base


def spans(count: int, size: int | None = None) -> Iterator[tuple[int, int]]:
    """Blocks of at most ``size`` (:data:`BLOCK`) elements that cover ``count``."""
    size = size or BLOCK
    for start in range(0, count, size):
        yield start, min(start + size, count)


def magnitude_bits(values: np.ndarray) -> np.ndarray:
    """Bit patterns [n] int32 of the magnitudes; for non-negative floats their order is the order of the values."""
    return values.view(np.int32) & 0x7FFFFFFF


def inner(one: np.ndarray, other: np.ndarray) -> float:
    """Inner product of two float32 vectors [n]: float32 sums over :data:`ROW` elements, added in float64."""
    whole = len(one) // ROW * ROW
    rows = np.vecdot(one[:whole].reshape(-1, ROW), other[:whole].reshape(-1, ROW))
    return float(rows.sum(dtype=np.float64)) + float(np.dot(one[whole:], other[whole:]))


def find_cuts(read: Callable[[int, int], np.ndarray], count: int, sizes: Sequence[int]) -> list[Cut]:
    """Cuts for the ``sizes`` largest of ``count`` values; ``read(start, stop)`` gives a block [stop - start]
    float32."""
    high = np.zeros(1 << 16, np.int64)
    if any(0 < size < count for size in sizes):
        for start, stop in spans(count):
            high += np.bincount(magnitude_bits(read(start, stop)) >> 15, minlength=1 << 16)
    above = count - high.cumsum()  # values in higher bins, per bin
    bins = {size: int(np.argmax(above < size)) for size in sizes if 0 < size < count}
    low = {bin_: np.zeros(1 << 15, np.int64) for bin_ in set(bins.values())}
    for start, stop in spans(count) if low else ():
        bits = magnitude_bits(read(start, stop))
        for bin_, histogram in low.items():
            histogram += np.bincount(bits[(bits >> 15) == bin_] & 0x7FFF, minlength=1 << 15)
    cuts = []
    for size in sizes:
        if not 0 < size < count:
            cuts.append(Cut(-1, 0) if size else Cut(2**31 - 1, 0))
            continue
        wanted = size - int(above[bins[size]])  # still to take inside the bin
        histogram = low[bins[size]]
        over = histogram.sum() - histogram.cumsum()
        value = int(np.argmax(over < wanted))
        cuts.append(Cut((bins[size] << 15) + value, wanted - int(over[value])))
    return cuts


def share_of(count: int, share: float) -> int:
    """Number of elements in a share of ``count``: rounded, and at least one of a positive share."""
    return min(count, max(math.floor(share * count + 0.5), int(share > 0)))


def random_mask(count: int, density: float, seed: int, name: str, model: int, block: int) -> np.ndarray:
    """Boolean mask [count] with the share ``density`` of ones, a function of its arguments alone.

    Raw bits of a bit generator, whose stream numpy promises to keep, unlike that of its distributions.
    """
    key = hashlib.sha256(f"{seed}/{name}/{model}/{block}".encode()).digest()
    words = np.random.SFC64(np.frombuffer(key, np.uint32)).random_raw(-(-count // 2))
    return words.view(np.uint32)[:count] < round(density * 2**32)


def turn(base_base: float, base_change: float, change_change: float, lam: float) -> tuple[float, float]:
    """Slerp as ``a * base + b * change`` from three inner products; the angle is exact also for small changes."""
    area = math.sqrt(max(0.0, base_base * change_change - base_change * base_change))
    angle = math.atan2(area, base_base + base_change)
    if base_base == 0 or angle < FLAT or angle > math.pi - FLAT:
        return 1.0, lam
    towards = math.sin(lam * angle) / math.sin(angle)
    return math.sin((1 - lam) * angle) / math.sin(angle) + towards, towards


def stock_step(gram: np.ndarray) -> float:
    """Model stock's step from the Gram matrix [k, k] of the changes: ``k c / (1 + (k - 1) c)``, c the mean cosine."""
    models = len(gram)
    norms = np.sqrt(gram.diagonal())
    scale = np.outer(norms, norms)
    cosines = np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)[~np.eye(models, dtype=bool)]
    cosine = float(cosines.mean().clip(0, 1))
    return models * cosine / (1 + (models - 1) * cosine)


def elect(changes: Sequence[np.ndarray]) -> np.ndarray:
    """TIES on trimmed changes [n] each: the sign of their sum wins, the mean is over those that carry it."""
    stacked = np.stack(changes)  # [k, n]
    agree = (np.sign(stacked) == np.sign(stacked.sum(0))) & (stacked != 0)
    return (stacked * agree).sum(0) / agree.sum(0, dtype=np.float32).clip(min=1)


def inner_products(read: Read, count: int, models: int) -> np.ndarray:
    """Gram matrix [1 + k, 1 + k] float64 of base and changes, block by block."""
    gram = np.zeros((1 + models, 1 + models))
    for start, stop in spans(count):
        base, changes = read(start, stop)
        vectors = [base, *changes]
        for i, one in enumerate(vectors):
            for j, other in enumerate(vectors[: i + 1]):
                gram[i, j] += inner(one, other)
    return np.tril(gram) + np.tril(gram, -1).T


def merged_blocks(read: Read, count: int, models: int, recipe: Recipe, lam: float, name: str) -> Iterator[Merged]:
    """Merges a tensor of ``count`` elements block by block.

    ``read(start, stop)`` returns base [n] and the changes (tuned - base), one [n] per tuned model, all float32; it may
    return the same buffers every time, which are overwritten.  ``name`` (canonical) seeds the random mask.
    """
    method = recipe.method
    cuts: list[list[Cut]] = []
    scales = (1.0, lam / models)
    if method == "slerp":
        gram = inner_products(read, count, models)
        scales = turn(float(gram[0, 0]), float(gram[0, 1]), float(gram[1, 1]), lam)
    elif method == "model_stock":
        scales = (1.0, stock_step(inner_products(read, count, models)[1:, 1:]) / models)
    elif method in {"trim", "ties", "breadcrumbs"}:
        outliers = share_of(count, recipe.gamma) if method == "breadcrumbs" else 0
        sizes = [min(count, outliers + share_of(count, recipe.density)), outliers]
        cuts = [find_cuts(lambda a, b, m=model: read(a, b)[1][m], count, sizes) for model in range(models)]
    for block, (start, stop) in enumerate(spans(count)):
        base, changes = read(start, stop)
        squares = sum(inner(change, change) for change in changes) / models
        base_squares = inner(base, base)
        if method == "drop" and recipe.density < 1:
            for model, change in enumerate(changes):
                change *= random_mask(stop - start, recipe.density, recipe.seed, name, model, block)
                change /= np.float32(recipe.density)
        elif cuts:
            for (kept, out), change in zip(cuts, changes, strict=True):
                bits = magnitude_bits(change)
                change *= kept.mask(bits) & ~out.mask(bits)
        if method == "ties" and models > 1:
            changes, scales = [elect(changes)], (1.0, lam)
        if scales[0] != 1.0:
            base *= np.float32(scales[0])
        for change in changes:
            change *= np.float32(scales[1])
            base += change
        yield Merged(start, stop, base, squares, base_squares)


def merge_tensors(
    base: "torch.Tensor", tuned: "Sequence[torch.Tensor]", recipe: Recipe, name: str = ""
) -> "torch.Tensor":
    """The merge of whole tensors of one shape, float32, what a streamed merge computes for the tensor ``name``."""
    import torch

    recipe.check_models(len(tuned))
    flat, *others = (one.detach().float().reshape(-1).numpy() for one in (base, *tuned))

    def read(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray]]:
        block = flat[start:stop].copy()
        return block, [other[start:stop] - block for other in others]

    merged = np.empty_like(flat)
    for block in merged_blocks(read, len(flat), len(tuned), recipe, recipe.at(name), name):
        merged[block.start : block.stop] = block.values
    return torch.from_numpy(merged).reshape(base.shape)
