"""The loss of a batch, as a module that a Trainer, DDP or FSDP can wrap.

The choices that are not obvious: the language head runs on supervised positions only, which saves memory and time in
proportion to the vocabulary; a batch without images adds the projector of zero rows to its embeddings, so that its
gradient is zero instead of absent and runs through the layers in the order of a batch with images: processes that
exchange gradients (DDP), or shards (FSDP), would otherwise wait for each other's.  Checked by
``python -m pytest tests/training/test_train.py``.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from textreg.training.batches import IGNORE
from textreg.vlm.adapters import plain
from textreg.vlm.features import feature_shape, projected


class Learner(nn.Module):
    """The model as the Trainer sees it: a batch in, the loss out."""

    accepts_loss_kwargs = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(plain(model), "_no_split_modules", None)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **images: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Summed cross-entropy of supervised positions over ``num_items_in_batch`` (default: this batch's own count).

        ``input_ids`` and ``labels`` int64 [rows, tokens]; ``position_ids`` likewise for packed rows; ``images`` as
        fetched.
        """
        vlm = plain(self.model)
        seen = projected(vlm, images)
        words = {"input_ids": input_ids} if seen is not None else {"inputs_embeds": self.without_image(vlm, input_ids)}
        hidden = vlm.model(
            **words, position_ids=position_ids, mm_encoder_outputs=seen, use_cache=False
        ).last_hidden_state  # [rows, tokens, hidden]
        targets = labels[:, 1:]
        scored = targets != IGNORE
        logits = vlm.lm_head(hidden[:, :-1][scored])  # [supervised, vocabulary]
        loss = cross_entropy(logits.float(), targets[scored], reduction="sum")
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
