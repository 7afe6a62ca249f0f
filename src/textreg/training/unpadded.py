"""Rows of a batch end to end, so that no layer computes padding; attention alone sees them as rows.

The choices that are not obvious: only attention looks beyond its own position, so it alone needs rows, and gets them
as padded as before (a pad lies right of what it could disturb) without a mask over all of the batch; the function is
registered under a name of its own beside ``sdpa``, which transformers' interface is for, and without rows it *is*
``sdpa``, so a model that has it answers as ever.  Families that look sideways elsewhere (states, two-dimensional
positions), and rows longer than a sliding window, keep their padding: :func:`reach`.  Checked by
``python -m pytest tests/training/test_unpadded.py``.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from textreg.training.batches import IGNORE
from textreg.vlm.features import is_llava

NAME = "sdpa_by_row"


def reach(vlm: nn.Module) -> float:
    """The longest row, in tokens, whose pads may go: nothing but positions and attention ties its tokens together, and
    no window cuts it; 0 for a model that ties them otherwise."""
    if not is_llava(vlm):
        return 0
    decoder, text = vlm.get_decoder(), vlm.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    otherwise = decoder._is_stateful or getattr(text, "use_bidirectional_attention", False)
    takes = decoder._supports_attention_backend and text._attn_implementation in ("sdpa", NAME)
    if otherwise or not takes or not hasattr(decoder, "rotary_emb") or kinds - {"full_attention", "sliding_attention"}:
        return 0
    return getattr(text, "sliding_window", None) or math.inf


def by_row(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    places: torch.Tensor | None = None,
    shape: tuple[int, int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each row: query, key and value [1, heads, tokens, width] of all rows end to end.

    ``places`` int64 [tokens] says where each token lies in a padded batch of ``shape`` (rows, longest), flattened.
    """
    if places is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    def rows(states: torch.Tensor) -> torch.Tensor:
        flat = states[0].transpose(0, 1)  # [tokens, heads, width]
        padded = flat.new_zeros(shape[0] * shape[1], *flat.shape[1:]).index_copy(0, places, flat)
        return padded.unflatten(0, shape).transpose(1, 2)

    out, _ = sdpa_attention_forward(module, rows(query), rows(key), rows(value), None, **options)
    return out.flatten(0, 1).index_select(0, places)[None], None  # [1, tokens, heads, width]


def end_to_end(
    input_ids: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Ids and labels [rows, longest] without their pads, [1, tokens], and what the model is told of the rows.

    The first token of a row, which nothing in it predicts, loses its label: the row before it would.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    real = positions < lengths[:, None]
    kept, targets = input_ids[real][None], torch.where(positions > 0, labels, IGNORE)[real][None]
    # A mask of ones keeps transformers from building one of tokens x tokens where positions begin anew.
    told = {"attention_mask": torch.ones_like(kept), "position_ids": positions[real][None]}
    return kept, targets, told | {"places": real.flatten().nonzero()[:, 0], "shape": tuple(input_ids.shape)}


AttentionInterface.register(NAME, by_row)
AttentionMaskInterface.register(NAME, sdpa_mask)
