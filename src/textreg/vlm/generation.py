"""Greedy answers in batches.

The choices that are not obvious: equal requests are answered once (the blank images of a run are a few, asked about
again and again); requests are sorted by length, longest first, so that a batch holds little or no padding and running
out of memory shows at once; a batch whose prompts are equally long needs no mask; the key-value
cache is allocated once per batch and finished rows leave it, so a batch costs what its unfinished rows cost; where a
batch does not fit into the GPU, it and all later ones are halved until they do.  The stock dynamic cache concatenates
keys and values at every step, which at micro scale costs as much as the step itself; layers of another kind (sliding
windows) keep their stock class.  The answers equal those of
``generate`` one by one (tested in fp32; in bf16 a few near-ties may flip with the batch size, as with any tool).

    >>> answers = answer(model, processor, [Request("<image>\\nDescribe the image.", "scene-7")], features)
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from textreg.errors import InputError, RunError
from textreg.vlm.adapters import folded, plain
from textreg.vlm.chat import render
from textreg.vlm.features import is_llava, model_inputs

if TYPE_CHECKING:
    from textreg.vlm.features import Features

LENGTH = "length"


@dataclass(frozen=True)
class Request:
    """One user turn; ``prompt`` holds ``<image>`` once if ``image_id`` is set; ``prefix`` is put into the answer's
    mouth.
    """

    prompt: str
    image_id: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Answer:
    """Decoded text without special tokens (a forced prefix is not repeated in it), stripped; number of generated
    tokens, end included; log-probabilities of the first token over the vocabulary, float32 [vocabulary], when asked
    for; why it ended, in the words of OpenAI's protocol: ``stop``, or ``length`` where the limit cut it off.
    """

    text: str
    tokens: int
    first_logprobs: np.ndarray | None = None
    finish: str = "stop"


def answer(
    model: "PreTrainedModel",
    processor: Any,
    requests: "Sequence[Request] | pd.DataFrame",
    features: "Features | None" = None,
    *,
    max_new_tokens: int = 40,
    batch_size: int = 128,
    first_logprobs: bool = False,
    on_batch: Callable[[list[tuple[int, Answer]]], None] | None = None,
) -> list[Answer]:
    """Answer every request greedily; answers come in the order of the requests.

    Args:
        requests: :class:`Request` objects, or a table with ``prompt``, ``image_id`` and optionally ``prefix``.
        features: where images come from (:func:`textreg.vlm.features.open_features`); None when no request shows one.
        on_batch: called with ``(position, answer)`` pairs after every batch, for writing them down as they come.

    Raises:
        InputError: a request whose placeholder and image do not agree, or an image without features.
        RunError: not even one request fits into the GPU.
    """

    listed = _listed(requests)
    places: dict[Request, list[int]] = {}
    for place, request in enumerate(listed):
        places.setdefault(request, []).append(place)
    distinct = list(places)
    vlm = plain(model)
    prompts = encode_prompts(processor, distinct, features)
    ends = end_tokens(vlm)
    order = np.argsort([-len(ids) for ids in prompts], kind="stable")
    answers: dict[int, Answer] = {}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(folded(model))
        was_training = model.training
        stack.callback(model.train, was_training)
        model.eval()
        start = 0
        while start < len(order):
            positions = [int(position) for position in order[start : start + batch_size]]
            images = [distinct[position].image_id for position in positions if distinct[position].image_id is not None]
            fetched = features.fetch(images) if images else {}
            chosen = [prompts[position] for position in positions]
            try:
                tokens, logprobs = decode(vlm, chosen, fetched, features, ends, max_new_tokens, first_logprobs)
            except torch.cuda.OutOfMemoryError:
                if len(positions) == 1:
                    raise RunError(
                        f"the GPU ran out of memory answering one request of {len(chosen[0])} tokens: close what else "
                        "runs on it, or set precision=4bit"
                    ) from None
                batch_size = len(positions) // 2
                continue
            start += len(positions)
            texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            found = [
                Answer(
                    text.strip(),
                    len(ids),
                    None if logprobs is None else logprobs[row],
                    "stop" if ids[-1] in ends else LENGTH,
                )
                for row, (text, ids) in enumerate(zip(texts, tokens, strict=True))
            ]
            asked = [places[distinct[position]] for position in positions]
            batch = [(place, each) for each, wanted in zip(found, asked, strict=True) for place in wanted]
            answers.update(batch)
            if on_batch is not None:
                on_batch(batch)
    return [answers[position] for position in range(len(listed))]


def _listed(requests: "Sequence[Request] | pd.DataFrame") -> list[Request]:

    if not isinstance(requests, pd.DataFrame):
        return list(requests)
    prefixes = requests["prefix"] if "prefix" in requests else [""] * len(requests)
    return [
        Request(prompt, None if pd.isna(image) else str(image), prefix)
        for prompt, image, prefix in zip(requests["prompt"], requests["image_id"], prefixes, strict=True)
    ]


def encode_prompts(
    processor: Any, requests: Sequence[Request], features: "Features | None" = None
) -> list[np.ndarray]:
    """Token ids of each prompt, int64 [length], through the chat template, each picture as the words it takes."""

    if not requests:
        return []
    shown = next((request.image_id for request in requests if request.image_id is not None), None)
    if shown is not None and features is None:
        raise InputError(f"image {shown} is asked about, but no images were given")
    turns = [[{"role": "user", "content": request.prompt}] for request in requests]
    words = [None if request.image_id is None else features.words(request.image_id) for request in requests]
    texts = render(processor, turns, words, generation_prompt=True)
    texts = [text + request.prefix for text, request in zip(texts, requests, strict=True)]
    return [np.asarray(ids, np.int64) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def end_tokens(vlm: "PreTrainedModel") -> list[int]:
    """Ids that end an answer, from the generation config."""
    ends = vlm.generation_config.eos_token_id
    if ends is None:
        raise InputError(
            "the model's generation config names no end token: set eos_token_id in generation_config.json"
        )
    return [ends] if isinstance(ends, int) else list(ends)


def decode(
    vlm: "PreTrainedModel",
    prompts: Sequence[np.ndarray],
    fetched: dict[str, "torch.Tensor"],
    features: "Features | None",
    ends: Sequence[int],
    max_new_tokens: int,
    first_logprobs: bool = False,
) -> tuple[list[list[int]], np.ndarray | None]:
    """Greedy decoding of one batch.

    Returns generated ids per prompt (up to and with the end token), and float32 [prompts, vocabulary] or None.
    """

    device, count = vlm.device, len(prompts)
    longest = max(len(ids) for ids in prompts)
    ids = torch.full((count, longest), vlm.generation_config.pad_token_id or 0, dtype=torch.long)
    mask = torch.zeros(count, longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, longest - len(prompt) :] = 1
    seen = model_inputs(vlm, fetched | (features.aligned(ids) if fetched else {}))
    ids, mask = ids.to(device), mask.to(device)
    if not is_llava(vlm):
        return by_generate(vlm, ids, mask, seen, ends, max_new_tokens, first_logprobs)
    lengths = mask.sum(1)  # [rows]
    padded = bool((lengths < longest).any())
    cache = preallocated_cache(vlm, longest + max_new_tokens)
    positions = (mask.cumsum(1) - 1).clamp(min=0) if padded else None
    hidden = vlm.model(
        input_ids=ids,
        attention_mask=mask if padded else None,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **seen,
    ).last_hidden_state
    end_ids = torch.tensor(list(ends), device=device)
    rows = torch.arange(count, device=device)  # the batch rows still unfinished
    generated = torch.full((count, max_new_tokens), -1, dtype=torch.long, device=device)
    logprobs = None
    for step in range(max_new_tokens):
        logits = vlm.lm_head(hidden[:, -1])  # [unfinished, vocabulary]
        if step == 0 and first_logprobs:
            logprobs = logits.float().log_softmax(-1).cpu().numpy()
        chosen = logits.argmax(-1)
        generated[rows, step] = chosen
        going = ~torch.isin(chosen, end_ids)
        left = int(going.sum())
        if left == 0 or step + 1 == max_new_tokens:
            break
        if left < len(rows):
            kept = packed(going, left)
            rows, chosen, lengths, mask = rows[kept], chosen[kept], lengths[kept], mask[kept]
            cache.batch_select_indices(kept)
        if padded:
            mask = torch.cat([mask, mask.new_ones(left, 1)], dim=1)
        hidden = vlm.model.language_model(
            input_ids=chosen[:, None],
            attention_mask=mask if padded else None,
            position_ids=lengths[:, None] + step,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    table = generated.cpu().numpy()
    return [row[row >= 0].tolist() for row in table], logprobs


def by_generate(
    vlm: "PreTrainedModel",
    ids: torch.Tensor,
    mask: torch.Tensor,
    seen: dict[str, Any],
    ends: Sequence[int],
    max_new_tokens: int,
    first_logprobs: bool,
) -> tuple[list[list[int]], np.ndarray | None]:
    """As :func:`decode`, by the ``generate`` of a published model, which knows its family's positions and caches."""
    logprobs = None
    if first_logprobs:
        last = vlm(input_ids=ids, attention_mask=mask, logits_to_keep=1, **seen).logits[:, -1]
        logprobs = last.float().log_softmax(-1).cpu().numpy()
    out = vlm.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(ends),
        **seen,
    )
    said = []
    for row in out[:, ids.shape[1] :].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        said.append(row[: end + 1])
    return said, logprobs


def packed(going: torch.Tensor, left: int) -> torch.Tensor:
    """Places int64 [left] of the rows that are ``going`` (bool [rows]), each that can staying where it is: the last
    ones fill the holes, so that few rows of a cache move."""
    kept = torch.arange(left, device=going.device)
    kept[~going[:left]] = going[left:].nonzero().squeeze(1) + left
    return kept


class BufferedLayer(DynamicLayer):
    """Keys and values are views of the filled part of a buffer [rows, heads, length, width]."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.filled = length, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states behind the filled part and return all of it."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, width = key_states.shape
            self.key_buffer = key_states.new_empty(rows, heads, self.length, width)
            self.value_buffer = value_states.new_empty(rows, heads, self.length, value_states.shape[-1])
        end = self.filled + key_states.shape[-2]
        self.key_buffer[:, :, self.filled : end] = key_states
        self.value_buffer[:, :, self.filled : end] = value_states
        self.filled = end
        self._view()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows ``indices`` of the batch, moving only those that change places."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(1)
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[moved, :, : self.filled] = buffer[indices[moved], :, : self.filled]
        self.key_buffer, self.value_buffer = self.key_buffer[: len(indices)], self.value_buffer[: len(indices)]
        self._view()

    def _view(self) -> None:
        self.keys, self.values = self.key_buffer[:, :, : self.filled], self.value_buffer[:, :, : self.filled]


def preallocated_cache(vlm: PreTrainedModel, length: int) -> DynamicCache:
    """An empty cache for up to ``length`` positions of the model's language part."""
    cache = DynamicCache(config=vlm.config.get_text_config())
    cache.layers = [BufferedLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
