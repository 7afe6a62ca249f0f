"""Packing: several samples in one row without seeing each other.

The choice that is not obvious: no mask is built.  transformers 5 recognises a packed row by position ids that restart,
*if* there is no 2-D attention mask and no cache (with either one the samples silently see each other), and builds the
block-diagonal mask itself.  So a packed batch is one row, its positions restart, and whoever runs it passes
``use_cache=False``.  The first label of each sample is -100: the previous sample's last token must not predict it.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from textreg.batches import Sample


def packed(samples: Sequence["Sample"]) -> dict[str, Any]:
    """One row of concatenated samples.

    Returns ``input_ids``, ``labels`` and ``position_ids``, int64 [1, sum of lengths]; positions restart at 0 per
    sample.
    """
    import torch

    ids = np.concatenate([sample.ids for sample in samples]).astype(np.int64)
    labels = np.concatenate([sample.labels for sample in samples]).astype(np.int64)
    lengths = np.array([len(sample) for sample in samples])
    starts = np.cumsum(lengths) - lengths
    labels[starts] = -100
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "labels": torch.from_numpy(labels)[None],
        "position_ids": torch.from_numpy(positions)[None],
    }


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
