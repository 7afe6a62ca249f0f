"""Rows to token ids and labels, and optimizer steps to batches.

The choices that are not obvious: rows are tokenised once, before training, each picture as the words it takes; each
optimizer step holds exactly the planned rows, however they are then sorted, so a step's gradient does not depend on
the micro-batch size or on the number of processes; batches are padded on the right and carry no attention mask,
because under causal attention a pad can never be seen from the left, and pads are not scored; most models then compute
none of them (:mod:`textreg.training.unpadded`).  A row longer than a
training row is cut at its end, as LLaVA's own training does (Liu et al. 2023), and counted: real data always holds
some, and one of them must not end a run that has aligned for hours.

    >>> samples = encode(processor, rows, features, max_length=256)
    >>> dataset = StepBatches(samples, order, steps=500, batch_size=64, groups=1, features=features)
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from textreg.errors import InputError
from textreg.vlm.chat import scored_spans

if TYPE_CHECKING:
    from textreg.vlm.features import Features

IGNORE = -100
CHUNK = 2048  # rows tokenised at a time


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


class Samples(Sequence[Sample]):
    """Tokenised rows in one piece of memory, five bytes a token; a million rows as objects would take fifty times it.

    ``supervised``: int64 [rows], scored targets of each.
    """

    def __init__(self) -> None:
        self._data, self._ends, self._images = bytearray(), array("q", [0]), []
        self._supervised = array("q")

    def append(self, sample: Sample) -> None:
        """Add a row."""
        self._data += sample.ids.tobytes() + (sample.labels != IGNORE).tobytes()
        self._ends.append(self._ends[-1] + len(sample))
        self._supervised.append(sample.supervised)
        self._images.append(sample.image_id)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self._ends)

    @property
    def supervised(self) -> np.ndarray:
        """Scored targets of each row, int64 [rows]."""
        return np.array(self._supervised)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> Sample:
        row = range(len(self))[row]
        start, length = self._ends[row], self._ends[row + 1] - self._ends[row]
        data = bytes(memoryview(self._data)[5 * start : 5 * (start + length)])
        ids = np.frombuffer(data, np.int32, length)
        scored = np.frombuffer(data, np.bool_, length, 4 * length)
        return Sample(ids, np.where(scored, ids, np.int32(IGNORE)), self._images[row])


def encode(processor: Any, rows: "pd.DataFrame", features: "Features | None", *, max_length: int) -> Samples:
    """Tokenise rows (columns ``messages``, ``image_id``, optionally ``row_id``) through the chat template, in pieces.

    Labels cover what the assistant wrote up to and with the token that ends its turn; a template that writes none
    (LLaVA 1.5) gets the end-of-sequence token after the last turn, because a model that never sees an end never stops.
    Rows longer than ``max_length`` tokens are cut there, without an end to learn.  Of a row that the template refuses
    or rewrites (:func:`textreg.vlm.chat.scored_spans`), or whose picture does not fit into ``max_length``, nothing is
    learnt: an end token stands in its place.  The numbers of all of them are printed.

    Raises:
        InputError: a row whose placeholder does not agree with its image, or whose turn boundary falls inside a
            token; fewer than half of the rows can be learnt from.
    """
    if len(rows) == 0:
        raise InputError("there are no rows to train on: run the stage `prepare_data` again")
    samples, found = Samples(), Counter()
    for start in range(0, len(rows), CHUNK):
        for sample, why in _encoded(processor, rows.iloc[start : start + CHUNK], features, max_length):
            samples.append(sample)
            found.update([why] if why else [])
    for why, count in sorted(found.items()):
        print(f"{count} of {len(samples)} rows: {why}")
    mute = int((samples.supervised == 0).sum())
    if 2 * mute > len(samples):
        why = next((why for why, _ in found.most_common(1)), "without an answer")
        raise InputError(
            f"nothing can be learnt from {mute} of {len(samples)} rows (most: {why}): raise max_length={max_length}, "
            "or take rows that the model's chat template accepts"
        )
    return samples


def _encoded(
    processor: Any, rows: "pd.DataFrame", features: "Features | None", max_length: int
) -> Iterator[tuple[Sample, str]]:
    """Samples of some rows, and what is wrong with each, if anything."""
    tokenizer = processor.tokenizer
    images = [None if pd.isna(image) else str(image) for image in rows["image_id"]]
    names = list(rows["row_id"]) if "row_id" in rows else list(range(len(rows)))
    if features is None and any(images):
        raise InputError(f"image {next(filter(None, images))} is needed, but the training was given no images")
    words = [None if image is None else features.words(image) for image in images]
    conversations = [[dict(turn) for turn in messages] for messages in rows["messages"]]
    rendered = scored_spans(processor, conversations, words)
    encoded = tokenizer([text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True)
    for name, image, shown, (text, spans), ids, offsets in zip(
        names, images, words, rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        nothing = Sample(np.array([tokenizer.eos_token_id], np.int32), np.array([IGNORE], np.int32))
        if not spans:
            yield nothing, "refused or rewritten by the chat template, not learnt"
            continue
        places = np.asarray(offsets)
        sample = _label(np.asarray(ids, np.int32), places, spans, tokenizer.eos_token_id, name)
        sample = replace(sample, image_id=image)
        if shown is not None and (places[:, 0] < text.index(shown) + len(shown)).sum() > max_length:
            yield nothing, f"a picture of more than max_length={max_length} tokens, not learnt"
        elif len(sample) > max_length:
            cut = Sample(sample.ids[:max_length], sample.labels[:max_length], image)
            yield cut, f"cut at max_length={max_length}" + ("" if cut.supervised else ", before the answer")
        else:
            yield sample, ""


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


def shuffled_order(rows: int, wanted: int, seed: int) -> np.ndarray:
    """``wanted`` row positions: whole shuffled epochs one after the other, from ``seed`` alone."""
    generator = np.random.default_rng(seed)
    epochs = -(-wanted // rows)
    return np.concatenate([generator.permutation(rows) for _ in range(epochs)])[:wanted]


class StepBatches:
    """A map-style dataset whose item is one micro-batch, in training order: ``groups`` items make one optimizer step.

    The rows of a step are sorted by length and cut, so that an item holds little padding.  Which rows a step holds is
    fixed by ``order`` alone.
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
        self.samples, self.features, self.pad_id = samples, features, pad_id
        self.order = np.asarray(order)[: steps * batch_size].reshape(steps, batch_size)
        self.groups = groups
        self.lengths = samples.lengths if isinstance(samples, Samples) else np.array([len(one) for one in samples])

    def __len__(self) -> int:
        return self.order.shape[0] * self.groups

    def members(self, item: int) -> np.ndarray:
        """Row positions of one micro-batch."""
        step, group = divmod(item, self.groups)
        rows = self.order[step]
        by_length = rows[np.argsort(-self.lengths[rows], kind="stable")]
        return by_length.reshape(self.groups, -1)[group]

    def __getitem__(self, item: int) -> dict[str, Any]:
        chosen = [self.samples[row] for row in self.members(item)]
        batch = padded(chosen, self.pad_id)
        images = [sample.image_id for sample in chosen if sample.image_id is not None]
        if images and self.features is None:
            raise InputError(f"image {images[0]} is needed, but the training was given no images")
        if not images:
            return batch
        return batch | self.features.aligned(batch["input_ids"]) | self.features.fetch(images)


def padded(samples: Sequence[Sample], pad_id: int) -> dict[str, Any]:
    """Right-padded ``input_ids`` and ``labels``, int64 [rows, longest], pads with label -100; ``lengths`` [rows]."""

    longest = max(len(sample) for sample in samples)
    ids = np.full((len(samples), longest), pad_id, np.int64)
    labels = np.full((len(samples), longest), IGNORE, np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)] = sample.ids
        labels[row, : len(sample)] = sample.labels
    lengths = torch.tensor([len(sample) for sample in samples])
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels), "lengths": lengths}
