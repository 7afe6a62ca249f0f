"""Merge methods: what becomes of one weight tensor, as pure float32 functions.

With one tuned model and its base every task-vector method is ``base + lambda * f(tuned - base)``, and only ``f``
differs: identity (linear = task arithmetic), keep the largest (trim = TIES with one model), keep the largest but for
the very largest (breadcrumbs), keep a random share and rescale (drop = DARE).  SLERP turns instead of adding.  TIES
and model stock need several tuned models to mean anything of their own.

Choices: statistics (thresholds, angles) are of the *whole* tensor, yet computed block by block, so a large embedding
needs no more memory than a small one and the block size changes nothing; thresholds are exact (a two-pass radix
selection on the bits of the magnitude), equal magnitudes are kept in storage order, because bf16 differences tie in
large numbers; the random mask is seeded by tensor name and block, so shards and layout do not change it.

    merge_tensors(base, [tuned], Recipe("trim", lam=0.5, density=0.2))
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from textreg.errors import InputError, did_you_mean
from textreg.layouts import first_match

if TYPE_CHECKING:
    import torch

    Read = Callable[[int, int], tuple[torch.Tensor, list[torch.Tensor]]]

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
BLOCK = 1 << 17  # elements per block: three float32 blocks stay in a core's cache; also the unit of the random mask
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
            if not math.isfinite(value) or (method == "slerp" and not 0 <= value <= 1):
                raise InputError(
                    f"lambda {value} ({name}) is out of range{' 0 to 1 of slerp' if method == 'slerp' else ''}"
                )
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

    def at(self, name: str) -> float:
        """Lambda for the tensor ``name`` (as stored, or canonical)."""
        return first_match(name, self.patterns, self.lam)


@dataclass
class Cut:
    """The ``k`` largest magnitudes of a tensor: all above ``threshold`` (bits) and the first ``ties`` that equal
    it."""

    threshold: int
    ties: int

    def mask(self, bits: "torch.Tensor") -> "torch.Tensor":
        """Boolean mask of one block [n]; blocks must come in storage order, for the ties are counted down."""
        kept = bits > self.threshold
        if self.ties:
            equal = bits == self.threshold
            kept |= equal & (equal.cumsum(0) <= self.ties)
            self.ties = max(0, self.ties - int(equal.sum()))
        return kept


@dataclass(frozen=True)
class Merged:
    """One merged block: elements ``start`` to ``stop``, ``values`` [stop - start] float32, and squared norms."""

    start: int
    stop: int
    values: "torch.Tensor"
    change: float  # sum over elements of the squared change of the tuned models, averaged over models
    base: float  # sum of squares of the base


def spans(count: int) -> Iterator[tuple[int, int]]:
    """Blocks of at most :data:`BLOCK` elements that cover ``count``."""
    for start in range(0, count, BLOCK):
        yield start, min(start + BLOCK, count)


def magnitude_bits(values: "torch.Tensor") -> "torch.Tensor":
    """Bit patterns [n] int32 of the magnitudes; for non-negative floats their order is the order of the values."""
    import torch

    return values.abs().view(torch.int32)


def find_cuts(read: "Callable[[int, int], torch.Tensor]", count: int, sizes: Sequence[int]) -> list[Cut]:
    """Cuts for the ``sizes`` largest of ``count`` values; ``read(start, stop)`` gives a block [stop - start]
    float32."""
    import torch

    high = torch.zeros(1 << 16, dtype=torch.int64)
    if any(0 < size < count for size in sizes):
        for start, stop in spans(count):
            high += torch.bincount(magnitude_bits(read(start, stop)) >> 15, minlength=1 << 16)
    above = count - high.cumsum(0)  # values in higher bins, per bin
    bins = {size: int((above < size).nonzero()[0]) for size in sizes if 0 < size < count}
    low = {bin_: torch.zeros(1 << 15, dtype=torch.int64) for bin_ in set(bins.values())}
    for start, stop in spans(count) if low else ():
        bits = magnitude_bits(read(start, stop))
        for bin_, histogram in low.items():
            histogram += torch.bincount(bits[(bits >> 15) == bin_] & 0x7FFF, minlength=1 << 15)
    cuts = []
    for size in sizes:
        if not 0 < size < count:
            cuts.append(Cut(-1, 0) if size else Cut(2**31 - 1, 0))
            continue
        wanted = size - int(above[bins[size]])  # still to take inside the bin
        histogram = low[bins[size]]
        over = histogram.sum() - histogram.cumsum(0)
        value = int((over < wanted).nonzero()[0])
        cuts.append(Cut((bins[size] << 15) + value, wanted - int(over[value])))
    return cuts


def share_of(count: int, share: float) -> int:
    """Number of elements in a share of ``count``: rounded, and at least one of a positive share."""
    return min(count, max(math.floor(share * count + 0.5), int(share > 0)))


def random_mask(count: int, density: float, seed: int, name: str, model: int, block: int) -> "torch.Tensor":
    """Boolean mask [count] with the share ``density`` of ones, a function of its arguments alone."""
    import torch

    key = hashlib.sha256(f"{seed}/{name}/{model}/{block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))
    return torch.rand(count, generator=generator) < density


def turn(base_base: float, base_change: float, change_change: float, lam: float) -> tuple[float, float]:
    """Slerp as ``a * base + b * change`` from three inner products; the angle is exact also for small changes."""
    area = math.sqrt(max(0.0, base_base * change_change - base_change * base_change))
    angle = math.atan2(area, base_base + base_change)
    if base_base == 0 or angle < FLAT or angle > math.pi - FLAT:
        return 1.0, lam
    towards = math.sin(lam * angle) / math.sin(angle)
    return math.sin((1 - lam) * angle) / math.sin(angle) + towards, towards


def stock_step(gram: "torch.Tensor") -> float:
    """Model stock's step from the Gram matrix [k, k] of the changes: ``k c / (1 + (k - 1) c)``, c the mean cosine."""
    import torch

    models = len(gram)
    norms = gram.diagonal().sqrt()
    scale = torch.outer(norms, norms)
    cosines = torch.where(scale > 0, gram / scale, torch.zeros(()))[~torch.eye(models, dtype=torch.bool)]
    cosine = float(cosines.mean().clamp(0, 1))
    return models * cosine / (1 + (models - 1) * cosine)


def elect(changes: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """TIES on trimmed changes [n] each: the sign of their sum wins, the mean is over those that carry it."""
    import torch

    stacked = torch.stack(list(changes))  # [k, n]
    agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
    return (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)


def inner_products(read: "Read", count: int, models: int) -> "torch.Tensor":
    """Gram matrix [1 + k, 1 + k] float64 of base and changes, block by block."""
    import torch

    gram = torch.zeros(1 + models, 1 + models, dtype=torch.float64)
    for start, stop in spans(count):
        base, changes = read(start, stop)
        rows = torch.stack([base, *changes])
        gram += (rows @ rows.T).double()
    return gram


def merged_blocks(read: "Read", count: int, models: int, recipe: Recipe, lam: float, name: str) -> Iterator[Merged]:
    """Merges a tensor of ``count`` elements block by block.

    ``read(start, stop)`` returns base [n] and the changes (tuned - base), one [n] per tuned model, all float32; it may
    return the same buffers every time.  ``name`` (canonical) seeds the random mask.
    """
    import torch

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
        squares = sum(float(torch.dot(change, change)) for change in changes) / models
        base_squares = float(torch.dot(base, base))
        if method == "drop" and recipe.density < 1:
            masks = [random_mask(stop - start, recipe.density, recipe.seed, name, m, block) for m in range(models)]
            changes = [change * mask / recipe.density for change, mask in zip(changes, masks, strict=True)]
        elif cuts:
            bits = [magnitude_bits(change) for change in changes]
            masks = [kept.mask(b) & ~out.mask(b) for (kept, out), b in zip(cuts, bits, strict=True)]
            changes = [change * mask for change, mask in zip(changes, masks, strict=True)]
        if method == "ties" and models > 1:
            changes, scales = [elect(changes)], (1.0, lam)
        values = base if scales[0] == 1.0 else base.mul_(scales[0])
        for change in changes:
            values = values.add_(change, alpha=scales[1])
        yield Merged(start, stop, values, squares, base_squares)


def merge_tensors(
    base: "torch.Tensor", tuned: "Sequence[torch.Tensor]", recipe: Recipe, name: str = ""
) -> "torch.Tensor":
    """The merge of whole tensors of one shape, float32, what a streamed merge computes for the tensor ``name``."""
    import torch

    recipe.check_models(len(tuned))
    flat, others = base.detach().float().reshape(-1), [one.detach().float().reshape(-1) for one in tuned]

    def read(start: int, stop: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        block = flat[start:stop].clone()
        return block, [other[start:stop] - block for other in others]

    blocks = [merged.values for merged in merged_blocks(read, flat.numel(), len(tuned), recipe, recipe.at(name), name)]
    return torch.cat(blocks).reshape(base.shape) if blocks else base.detach().float().clone()
