"""A start for the projector: fit what it says of a picture to the embeddings of the words under it.

A fresh projector speaks noise, and a step that asks the language model how to make sense of it costs seconds on a
processor. Fitting it first to the words' own embeddings costs hardly any: token i of a picture is drawn to the i-th
token of its answer (the answer repeated, where a picture has more tokens), by cross-entropy over the tokens of all
answers and by distance, so that it has an embedding's size, too. Not LLaVA's recipe; ours, and told wherever it is
used (``align.name_steps``).

Use: ``fit(model, processor, rows, seen, settings)`` before ``train``.
"""

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from textreg.settings import Align

BATCH, RATE, SHARPNESS = 64, 1e-3, 10.0


def fit(model, processor, rows: pd.DataFrame, seen, settings: Align) -> float:
    """Train the projector of a LLaVA in place on ``rows`` with pictures; returns the loss of the last step, in nats.

    ``seen``: features of the frozen tower (:func:`textreg.vlm.features.open_features`), kept.
    """
    rows = rows[rows["image_id"].notna()]
    answers = [messages[-1]["content"] for messages in rows["messages"]]
    shown, which = np.unique(rows["image_id"].to_numpy(str), return_inverse=True)
    features = seen.fetch(list(shown))["image_features"].float()  # [pictures, tokens, width]
    count = features.shape[1]
    ids = [processor.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    vocabulary, targets = np.unique([np.resize(each, count) for each in ids], return_inverse=True)
    targets = torch.from_numpy(targets.reshape(len(rows), count))
    with torch.no_grad():
        words = model.get_input_embeddings()(torch.from_numpy(vocabulary).to(model.device)).float()
    projector, generator = model.model.multi_modal_projector, np.random.default_rng(settings.seed)
    projector.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    size = words.pow(2).mean()
    loss = torch.tensor(float("nan"))
    for _ in range(settings.name_steps):
        chosen = generator.integers(len(rows), size=BATCH)
        said = projector(features[which[chosen]].to(model.device))  # [BATCH, tokens, hidden]
        wanted = targets[chosen].to(model.device)
        near = SHARPNESS * F.normalize(said, dim=-1) @ F.normalize(words, dim=-1).T
        loss = F.cross_entropy(near.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        (loss + (said - words[wanted]).pow(2).mean() / size).backward()
        optimizer.step()
    projector.eval()
    return loss.item()
