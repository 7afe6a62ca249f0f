"""Why the image takes the language away: three looks inside, beyond the paper.

* *The first token decides.*  How much probability the first answer token gives to openings of English captions and to
  openings in the asked language, with the image, a blank image and text; and what becomes of the answer when its first
  words are given.
* *The language is still known.*  A linear probe on the hidden state that predicts the first token tells which
  language was asked for: if it can while the answer is English, the loss is one of choice, not of knowledge.

Arms of a request, languages and images are those of the validation split.  The working account that these looks test
is ours; nothing here is a result of the paper.  Run it: ``papermill notebooks/07_mechanism.ipynb out.ipynb``.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.config import Mechanism
from textreg.evaluation import BACKBONE, read_requests
from textreg.grammar import caption, frame_count
from textreg.scenes import Group, Scene

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ARMS = ("image", "blank", "text")


def requests(settings: Mechanism) -> "pd.DataFrame":
    """Caption requests of the first ``probe_images`` validation images, all arms and languages."""
    table = read_requests(settings.run, "validation", ARMS, ["caption"])
    items = table["item_id"].unique()[: settings.probe_images]
    return table[table["item_id"].isin(items)].reset_index(drop=True)


def open_system(settings: Mechanism, arm: str) -> tuple[Any, Any, Any]:
    """Model, processor and image features of the backbone or of a tuned arm."""
    from textreg import adapters, assembly, features

    run = Path(settings.run)
    model, processor = assembly.load_aligned(run / "align")
    images = features.ImageTable.read(run / "prepare_data" / "images.parquet")
    ids = requests(settings)["image_id"].dropna().unique()
    seen = features.open_features(model, processor, images, ids=ids)
    if arm != BACKBONE:
        model = adapters.load_adapter(model, run / "tune" / arm / "adapter")
    return model, processor, seen


@cache
def openings(code: str) -> tuple[str, ...]:
    """Captions that between them begin with every word that a caption of this language can begin with."""
    one = Scene((Group("red", "circle", "small"), Group("blue", "square", "large")), "above")
    two = Scene((Group("red", "star", "small", 2), Group("blue", "cross", "large")), "left")
    captions = [caption(scene, code, frame) for frame in range(1, frame_count(code)) for scene in (one, two)]
    return tuple(dict.fromkeys(captions))


def first_token_mass(table: "pd.DataFrame", logprobs: "np.ndarray", tokenizer: Any) -> "pd.DataFrame":
    """Probability (0..1) that the first token opens a caption of the asked language (``asked``) or of English.

    ``logprobs`` float32 ``(rows, vocabulary)``, rows as in ``table``.  Tokens that open captions of both count for
    neither. Returns ``language, arm, asked, english``, one row per request that is not English.
    """
    import numpy as np
    import pandas as pd

    def tokens(code: str) -> set[int]:
        return {tokenizer.encode(text, add_special_tokens=False)[0] for text in openings(code)}

    openers = {code: tokens(code) for code in {"en", *table["language"]}}
    english, rows = openers["en"], []
    for number, (code, arm) in enumerate(zip(table["language"], table["arm"], strict=True)):
        if code == "en":
            continue
        asked = openers[code]
        mass = np.exp(logprobs[number])
        rows.append((code, arm, mass[sorted(asked - english)].sum(), mass[sorted(english - asked)].sum()))
    return pd.DataFrame(rows, columns=["language", "arm", "asked", "english"])


def forced_prefix(
    settings: Mechanism, model: Any, processor: Any, seen: Any, words: Sequence[int] = (0, 1, 2, 3)
) -> "pd.DataFrame":
    """LF+ (exact judge) of image captions whose first words are given: ``language, words, n, lf_plus``."""
    import pandas as pd

    from textreg import generation
    from textreg.grammar import parse

    table = requests(settings)
    table = table[(table["arm"] == "image") & (table["language"] != "en")].reset_index(drop=True)
    right = [reference(row) for row in table["reference"]]
    parts = []
    for given in words:
        prefixes = [" ".join(text.split()[:given]) for text in right]
        asked = table.assign(prefix=prefixes)
        found = generation.answer(
            model, processor, asked, seen, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size
        )
        whole = [f"{prefix} {answer.text}".strip() for prefix, answer in zip(prefixes, found, strict=True)]
        kept = [parse(text, code) is not None for text, code in zip(whole, table["language"], strict=True)]
        parts.append(pd.DataFrame({"language": table["language"], "words": given, "kept": kept}))
    grouped = pd.concat(parts).groupby(["language", "words"])["kept"].agg(n="count", lf_plus="mean")
    return grouped.reset_index()


def reference(cell: str) -> str:
    """The reference answer of a request (second element of the JSON list)."""
    import json

    return json.loads(cell)[1]


def last_states(model: Any, processor: Any, table: "pd.DataFrame", seen: Any, batch_size: int = 64) -> "np.ndarray":
    """Hidden states at the position that predicts the first answer token: float32 ``(rows, layers + 1, hidden)``."""
    import numpy as np
    import torch

    from textreg.adapters import plain
    from textreg.features import projected
    from textreg.generation import Request, encode_prompts

    vlm, out = plain(model), {}
    names = [image if isinstance(image, str) else None for image in table["image_id"]]
    asked = [Request(prompt, name) for prompt, name in zip(table["prompt"], names, strict=True)]
    prompts = encode_prompts(processor, asked, vlm)
    alike: dict[tuple[int, bool], list[int]] = {}  # equal lengths need no padding, whose place would shift the state
    for row, (ids, name) in enumerate(zip(prompts, names, strict=True)):
        alike.setdefault((len(ids), name is not None), []).append(row)
    batches = [
        rows[start : start + batch_size] for rows in alike.values() for start in range(0, len(rows), batch_size)
    ]
    for rows in batches:
        ids = torch.from_numpy(np.stack([prompts[row] for row in rows])).to(vlm.device)  # (batch, length)
        shown = [names[row] for row in rows if names[row] is not None]
        with torch.inference_mode():
            images = projected(vlm, seen.fetch(shown)) if shown else None
            found = vlm.model(input_ids=ids, mm_encoder_outputs=images, output_hidden_states=True, use_cache=False)
        states = torch.stack([state[:, -1].float().cpu() for state in found.hidden_states], dim=1)
        out.update(zip(rows, states.numpy(), strict=True))
    return np.stack([out[row] for row in range(len(prompts))])


def probe(states: "np.ndarray", table: "pd.DataFrame", folds: int = 4) -> "pd.DataFrame":
    """Cross-validated accuracy of a linear probe for the asked language: ``arm, layer, accuracy, chance``.

    ``chance`` is the share of the most frequent language.  Items are kept together in a fold, so that a probe never
    meets an image it was fitted on.
    """
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = []
    for arm in ARMS:
        chosen = (table["arm"] == arm).to_numpy()
        if not chosen.any():
            continue
        labels, items = table.loc[chosen, "language"], table.loc[chosen, "item_id"]
        splitter = GroupKFold(min(folds, items.nunique()))
        chance = float(labels.value_counts(normalize=True).max())
        for layer in range(states.shape[1]):
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            found = cross_val_score(classifier, states[chosen, layer], labels, groups=items, cv=splitter)
            rows.append({"arm": arm, "layer": layer, "accuracy": float(found.mean()), "chance": chance})
    return pd.DataFrame(rows)


def stacked(answers: Sequence[Any]) -> "np.ndarray":
    """First-token log-probabilities of answers, float32 ``(rows, vocabulary)``."""
    import numpy as np

    return np.stack([answer.first_logprobs for answer in answers])
