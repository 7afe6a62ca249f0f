"""Packing: several samples in one row without seeing each other.

The choice that is not obvious: no mask is built.  transformers 5 recognises a packed row by position ids that restart,
*if* there is no 2-D attention mask and no cache (with either one the samples silently see each other), and builds the
block-diagonal mask itself.  So positions restart in a packed row, and whoever runs it passes ``use_cache=False``.  The
first label of each sample is -100: the previous sample's last token must not predict it.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from textreg.training.batches import Sample


def packed(samples: Sequence["Sample"], row_length: int) -> tuple[dict[str, Any], list[int]]:
    """Samples concatenated into as few rows of at most ``row_length`` tokens as first-fit decreasing finds.

    One endless row would be the simplest packing, but the attention of a packed row costs the square of its length.
    Returns ``input_ids``, ``labels`` and ``position_ids``, int64 [rows, longest row], and the order of the samples in
    them (images must follow it).  Positions restart at 0 per sample; a pad is a segment of its own, at position 0 with
    label -100.
    """
    import torch

    bins = first_fit([len(sample) for sample in samples], row_length)
    longest = max(sum(len(samples[place]) for place in members) for members in bins)
    ids = np.zeros((len(bins), longest), np.int64)
    labels = np.full((len(bins), longest), -100, np.int64)
    positions = np.zeros((len(bins), longest), np.int64)
    for row, members in enumerate(bins):
        start = 0
        for place in members:
            sample, end = samples[place], start + len(samples[place])
            ids[row, start:end], labels[row, start:end] = sample.ids, sample.labels
            labels[row, start] = -100
            positions[row, start:end] = np.arange(len(sample))
            start = end
    batch = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: torch.from_numpy(array) for name, array in batch.items()}, [p for members in bins for p in members]


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of positions by first-fit decreasing; a length over ``capacity`` gets a bin of its own."""
    bins: list[list[int]] = []
    free: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        fitting = next((number for number, room in enumerate(free) if room >= lengths[position]), None)
        if fitting is None:
            bins.append([])
            free.append(capacity)
            fitting = len(bins) - 1
        bins[fitting].append(position)
        free[fitting] -= lengths[position]
    return bins


def balanced_groups(lengths: Sequence[int] | np.ndarray, groups: int) -> list[np.ndarray]:
    """Split samples into ``groups`` of nearly equal total length (longest first, each to the group that is shortest so
    far).

    Every group gets at least one sample when there are enough.  Returns positions, ascending inside a group; the same
    input gives the same groups on every process.
    """
    heap = [(0, group) for group in range(groups)]
    heapify(heap)
    members: list[list[int]] = [[] for _ in range(groups)]
    for position in np.argsort(-np.asarray(lengths), kind="stable"):
        total, group = heap[0]
        members[group].append(int(position))
        heapreplace(heap, (total + int(lengths[position]), group))
    return [np.array(sorted(group), dtype=np.int64) for group in members]
