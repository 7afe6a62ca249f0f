"""A key-value cache that is allocated once per batch instead of growing by a copy per token.

The stock dynamic cache concatenates keys and values at every step, which at micro scale costs as much as the step
itself. Layers of another kind (sliding windows) keep their stock class.  This module imports transformers at the top:
import it where it is used.
"""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


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
        """Keep the rows ``indices`` of the batch."""
        self.key_buffer, self.value_buffer = self.key_buffer[indices], self.value_buffer[indices]
        self._view()

    def _view(self) -> None:
        self.keys, self.values = self.key_buffer[:, :, : self.filled], self.value_buffer[:, :, : self.filled]


def preallocated_cache(vlm: PreTrainedModel, length: int) -> DynamicCache:
    """An empty cache for up to ``length`` positions of the model's language part."""
    cache = DynamicCache(config=vlm.config.get_text_config())
    cache.layers = [BufferedLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
