"""Rows to token ids and labels, and optimizer steps to batches.

The choices that are not obvious: rows are tokenised once, before training, and an image is one token id until a batch
is collated; each optimizer step holds exactly the planned rows, whatever is then sorted or packed inside it, so a
step's gradient does not depend on the micro-batch size or on the number of processes; batches are padded on the right
and carry no attention mask, because under causal attention a pad can never be seen from the left, and pads are not
scored.  A row longer than a training row is cut at its end, as LLaVA's own training does (Liu et al. 2023), and
counted: real data always holds some, and one of them must not end a run that has aligned for hours.

Packing puts several samples into one row without seeing each other, and no mask is built: transformers 5 recognises a
packed row by position ids that restart, *if* there is no 2-D attention mask and no cache (with either one the samples
silently see each other), and builds the block-diagonal mask itself.  So positions restart in a packed row, and whoever
runs it passes ``use_cache=False``.  The first label of each sample is -100: the previous sample's last token must not
predict it.

    >>> samples = encode(processor, rows, image_tokens=16, max_length=256)
    >>> dataset = StepBatches(samples, order, steps=500, batch_size=64, groups=1, features=features)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from textreg.errors import InputError
from textreg.vlm.chat import IMAGE_TOKEN, scored_spans

if TYPE_CHECKING:
    from textreg.vlm.features import Features

IGNORE = -100


@dataclass(frozen=True)
class Sample:
    """One tokenised row: ``ids`` and ``labels`` are int32 [length]; labels are -100 where nothing is learnt.

    The placeholder of an image is already repeated once per image token.
    """

    ids: np.ndarray
    labels: np.ndarray
    image_id: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """Number of scored targets; the first token of a row is never one, since nothing predicts it."""
        return int((self.labels[1:] != IGNORE).sum())


def encode(processor: Any, rows: "pd.DataFrame", *, image_tokens: int, max_length: int) -> list[Sample]:
    """Tokenise rows (columns ``messages``, ``image_id``, optionally ``row_id``) through the chat template.

    Labels cover what the assistant wrote up to and with the token that ends its turn; a template that writes none
    (LLaVA 1.5) gets the end-of-sequence token after the last turn, because a model that never sees an end never stops.
    Rows longer than ``max_length`` tokens are cut there, without an end to learn, and their number is printed.

    Raises:
        InputError: a row whose placeholder does not agree with its image, whose image does not fit into
            ``max_length``, that has no assistant turn, or whose turn boundary falls inside a token; no row of which
            anything is left to learn.
    """

    if len(rows) == 0:
        raise InputError("there are no rows to train on: run the stage `prepare_data` again")
    tokenizer = processor.tokenizer
    conversations = [[dict(turn) for turn in messages] for messages in rows["messages"]]
    images = [None if pd.isna(image) else str(image) for image in rows["image_id"]]
    names = list(rows["row_id"]) if "row_id" in rows else list(range(len(rows)))
    rendered = scored_spans(processor, conversations)
    encoded = tokenizer([text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True)
    image_id, end_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), tokenizer.eos_token_id
    samples, cut = [], 0
    for name, image, (_, spans), ids, offsets in zip(
        names, images, rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        sample = _label(np.asarray(ids, np.int32), np.asarray(offsets), spans, end_id, name)
        placeholders = np.flatnonzero(sample.ids == image_id)
        if len(placeholders) != (image is not None):
            raise InputError(
                f"row {name}: {len(placeholders)} {IMAGE_TOKEN} placeholders with image_id={image}: "
                "a row shows its image exactly once, a text-only row never"
            )
        if image is not None:
            sample = _expand(sample, int(placeholders[0]), image_tokens, image)
            if placeholders[0] + image_tokens > max_length:
                raise InputError(
                    f"row {name}: its image ends {placeholders[0] + image_tokens} tokens into the row, max_length is "
                    f"{max_length}: raise it"
                )
        if len(sample) > max_length:
            cut += 1
            sample = Sample(sample.ids[:max_length], sample.labels[:max_length], image)
        samples.append(sample)
    mute = sum(sample.supervised == 0 for sample in samples)
    if mute == len(samples):
        raise InputError(f"no answer begins within max_length={max_length} tokens, in any row: raise it")
    if cut:
        print(f"{cut} of {len(samples)} rows are longer than max_length={max_length}: cut, {mute} before the answer")
    return samples


def _label(ids: np.ndarray, offsets: np.ndarray, spans: list[tuple[int, int]], end_id: int, name: object) -> Sample:
    labels = np.full(len(ids), IGNORE, np.int32)
    ended = False
    for start, end in spans:
        inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
        across = (offsets[:, 0] < start) & (offsets[:, 1] > start)
        if across.any():
            raise InputError(
                f"row {name}: a token reaches across the start of the assistant's turn, so it would be learnt unlike "
                "from how it is generated: end the template's generation prompt with a line break or a special token"
            )
        positions = np.flatnonzero(inside)
        ends = positions[ids[positions] == end_id]
        ended = len(ends) > 0
        if ended:
            positions = positions[positions <= ends[0]]
        labels[positions] = ids[positions]
    if not ended:
        last = int(np.flatnonzero(labels != IGNORE)[-1]) + 1
        ids, labels = np.insert(ids, last, end_id), np.insert(labels, last, end_id)
    return Sample(ids, labels)


def _expand(sample: Sample, place: int, count: int, image: str) -> Sample:
    ids = np.concatenate([sample.ids[:place], np.full(count, sample.ids[place], np.int32), sample.ids[place + 1 :]])
    labels = np.concatenate([sample.labels[:place], np.full(count, IGNORE, np.int32), sample.labels[place + 1 :]])
    return Sample(ids, labels, image)


def shuffled_order(rows: int, wanted: int, seed: int) -> np.ndarray:
    """``wanted`` row positions: whole shuffled epochs one after the other, from ``seed`` alone."""
    generator = np.random.default_rng(seed)
    epochs = -(-wanted // rows)
    return np.concatenate([generator.permutation(rows) for _ in range(epochs)])[:wanted]


class StepBatches:
    """A map-style dataset whose item is one micro-batch, in training order: ``groups`` items make one optimizer step.

    Items of a step have nearly equal work: rows are sorted by length and cut (padded batches), or balanced by tokens
    and packed into rows of ``row_length`` tokens where that is not 0.  Which rows a step holds is fixed by ``order``
    alone.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        order: Sequence[int] | np.ndarray,
        *,
        steps: int,
        batch_size: int,
        groups: int,
        features: "Features | None",
        row_length: int = 0,
        pad_id: int = 0,
    ) -> None:
        if len(order) < steps * batch_size:
            raise InputError(
                f"{steps} steps of {batch_size} rows need {steps * batch_size} rows, the plan has {len(order)}: "
                "lower steps or batch_size, or plan more rows"
            )
        if batch_size % groups:
            raise InputError(
                f"batch_size={batch_size} does not divide into {groups} micro-batches (processes x accumulation): "
                "choose batch_size as a multiple of it"
            )
        self.samples, self.features, self.row_length, self.pad_id = samples, features, row_length, pad_id
        self.order = np.asarray(order)[: steps * batch_size].reshape(steps, batch_size)
        self.groups = groups
        self.lengths = np.array([len(sample) for sample in samples])

    def __len__(self) -> int:
        return self.order.shape[0] * self.groups

    def members(self, item: int) -> np.ndarray:
        """Row positions of one micro-batch."""
        step, group = divmod(item, self.groups)
        rows = self.order[step]
        if self.row_length:
            return rows[balanced_groups(self.lengths[rows], self.groups)[group]]
        by_length = rows[np.argsort(-self.lengths[rows], kind="stable")]
        return by_length.reshape(self.groups, -1)[group]

    def __getitem__(self, item: int) -> dict[str, Any]:
        chosen = [self.samples[row] for row in self.members(item)]
        if self.row_length:
            batch, order = packed(chosen, self.row_length)
            chosen = [chosen[place] for place in order]
        else:
            batch = padded(chosen, self.pad_id)
        images = [sample.image_id for sample in chosen if sample.image_id is not None]
        if images and self.features is None:
            raise InputError(f"image {images[0]} is needed, but the training was given no images")
        return batch | (self.features.fetch(images) if images else {})


def padded(samples: Sequence[Sample], pad_id: int) -> dict[str, Any]:
    """Right-padded ``input_ids`` and ``labels``, int64 [rows, longest]; pads carry label -100."""

    longest = max(len(sample) for sample in samples)
    ids = np.full((len(samples), longest), pad_id, np.int64)
    labels = np.full((len(samples), longest), IGNORE, np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)] = sample.ids
        labels[row, : len(sample)] = sample.labels
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def packed(samples: Sequence["Sample"], row_length: int) -> tuple[dict[str, Any], list[int]]:
    """Samples concatenated into as few rows of at most ``row_length`` tokens as first-fit decreasing finds.

    One endless row would be the simplest packing, but the attention of a packed row costs the square of its length.
    Returns ``input_ids``, ``labels`` and ``position_ids``, int64 [rows, longest row], and the order of the samples in
    them (images must follow it).  Positions restart at 0 per sample; a pad is a segment of its own, at position 0 with
    label -100.
    """

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
