"""Replay: text rows that are answered by the untuned model itself (self-distillation), in place of their own answers.

Such rows teach nothing new; they say "go on as before" in the languages of their prompts, and need no answer that
anybody wrote.  Only rows that the training sees are answered, greedily, the first turn of each; an empty answer, which
teaches to say nothing, leaves the row as it was.  Ours, after Li & Hoiem 2016 (learning without forgetting).

    rows = own_answers(model, processor, rows, order.positions, settings)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from textreg.settings import Tune
from textreg.vlm.generation import Request, answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def own_answers(
    model: "PreTrainedModel", processor: Any, rows: pd.DataFrame, positions: Sequence[int], settings: Tune
) -> pd.DataFrame:
    """A copy of ``rows`` in which the text-only ones among ``positions`` hold the answers of ``model``, the aligned
    one without an adapter; the rows themselves where ``text_answers`` is ``given``."""
    if settings.text_answers == "given":
        return rows
    text = rows.iloc[sorted(set(positions))]
    text = text[text["image_id"].isna()]
    asked = [Request(messages[0]["content"]) for messages in text["messages"]]
    longest = max(16, settings.max_length // 4)
    said = [found.text for found in answer(model, processor, asked, max_new_tokens=longest)]
    turns = [
        [messages[0], {"role": "assistant", "content": words}] if words.strip() else messages
        for messages, words in zip(text["messages"], said, strict=True)
    ]
    rows = rows.copy()
    rows.loc[text.index, "messages"] = pd.Series(turns, index=text.index)
    return rows
