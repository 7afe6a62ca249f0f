"""The loss of a batch, as a module that a Trainer, DDP or FSDP can wrap.

The choices that are not obvious: the language head runs on supervised positions only, and on so many at a time that
their logits stay below ``LOGITS`` bytes (they are computed again for the gradient), because a head of 256,000 words is
most of the memory of a training; where the projector is trained, a batch without images adds the projector of zero
rows to its embeddings, so that its gradient is zero instead of absent and runs through the layers in the order of a
batch with images: processes that exchange gradients (DDP), or shards (FSDP), would otherwise wait for each other's.
Checked by ``python -m pytest tests/training/test_train.py``.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from textreg.training.batches import IGNORE
from textreg.training.unpadded import NAME, end_to_end, reach
from textreg.vlm.adapters import plain
from textreg.vlm.features import feature_shape, model_inputs, trains_projector

LOGITS = 2**28  # bytes, in float32


class Learner(nn.Module):
    """The model as the Trainer sees it: a batch in, the loss out."""

    accepts_loss_kwargs = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.reach = reach(plain(model))
        if self.reach:
            plain(model).get_decoder().set_attn_implementation(NAME)
        # What FSDP wraps by default; a name that the model does not hold, such as a text tower's, would end it.
        held = {type(module).__name__ for module in plain(model).modules()}
        self._no_split_modules = [
            name for name in getattr(plain(model), "_no_split_modules", None) or () if name in held
        ]

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        lengths: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **images: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Summed cross-entropy of supervised positions over ``num_items_in_batch`` (default: this batch's own count).

        ``input_ids`` and ``labels`` int64 [rows, tokens]; ``lengths`` int64 [rows] of each row without its pads, which
        are then left out where the model allows it; ``images`` as :class:`textreg.vlm.features.Features` gave them.
        """
        vlm = plain(self.model)
        how: dict[str, Any] = {}
        if lengths is not None and input_ids.shape[1] <= self.reach:
            input_ids, labels, how = end_to_end(input_ids, labels, lengths)
        seen = model_inputs(vlm, images)
        blind = not seen and trains_projector(vlm)
        words = {"inputs_embeds": self.without_image(vlm, input_ids)} if blind else {"input_ids": input_ids}
        hidden = vlm.model(**words, **seen, **how, use_cache=False).last_hidden_state  # [rows, tokens, hidden]
        targets = labels[:, 1:]
        scored = targets != IGNORE
        loss = summed_loss(vlm.get_output_embeddings(), hidden[:, :-1][scored], targets[scored])
        count = scored.sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": loss / count}

    @staticmethod
    def without_image(vlm: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [rows, tokens, hidden] of text alone, the projector in their graph."""
        projector = vlm.model.multi_modal_projector
        weight = next(projector.parameters())
        nothing = projector(weight.new_zeros(0, *feature_shape(vlm))).sum()
        embedded = vlm.get_input_embeddings()(input_ids)
        return embedded + nothing.to(embedded.dtype)


def summed_loss(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of ``targets`` int64 [positions] under ``head(hidden)``, hidden [positions, width]."""

    def part(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return cross_entropy(head(states).float(), wanted, reduction="sum")  # logits [positions, vocabulary]

    size = max(1, LOGITS // (4 * head.weight.shape[0]))
    if len(targets) <= size:
        return part(hidden, targets)
    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum()
