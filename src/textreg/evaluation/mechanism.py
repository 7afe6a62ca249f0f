"""Why the image takes the language away: four looks inside, beyond the paper.

* *The first token decides.*  How much probability the first answer token gives to openings of English captions and to
  openings in the asked language, with the image, a blank image and text; at which word an answer leaves the asked
  language; and what becomes of it when its first words are given.
* *The language is still known.*  A linear probe on the hidden state that predicts the first token tells which
  language was asked for: if it can while the answer is English, the loss is one of choice, not of knowledge.

Arms of a request, languages and images are those of the validation split.  At hub scale the openings are the first
words of the captions that people wrote, and two looks are left out: where an answer turns, and giving first words, for
which the scenes' closed word lists and their grammar are the judges.  The
working account that these looks test is ours; nothing here is a result of the paper.  Run it:
``papermill notebooks/07_mechanism.ipynb out.ipynb``.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textreg.compute import set_up
from textreg.data.requests import read_requests
from textreg.errors import InputError
from textreg.scenes.grammar import caption, frame_count, parse, split_words
from textreg.scenes.grammar import words as listed
from textreg.scenes.scene import Group, Scene
from textreg.settings import Mechanism
from textreg.vlm import generation, systems
from textreg.vlm.adapters import plain
from textreg.vlm.features import model_inputs
from textreg.vlm.generation import Request, encode_prompts
from textreg.vlm.systems import BACKBONE

ARMS = ("image", "blank", "text")
WORDS = 12  # of an answer that are looked at: where a caption of one relation ends
STATES = 64  # rows at a time whose states of every layer are held
LAYERS = 9  # probed at most: a fit takes seconds on the states of a large model


def requests(settings: Mechanism) -> "pd.DataFrame":
    """Caption requests of the first ``probe_images`` validation images, all arms and languages."""
    table = read_requests(settings.run, "validation", ARMS, ["caption"])
    items = table["item_id"].unique()[: settings.probe_images]
    return table[table["item_id"].isin(items)].reset_index(drop=True)


def open_system(settings: Mechanism, arm: str) -> tuple[Any, Any, Any]:
    """Model, processor and image features of the backbone or of a tuned arm, on the GPU in bf16 where there is one."""
    device = set_up(settings.threads).device
    precision = "bf16" if device == "cuda" else "fp32"
    ids = requests(settings)["image_id"].dropna().unique()
    return systems.open_system(settings.run, "" if arm == BACKBONE else arm, ids, precision=precision, device=device)


@cache
def openings(code: str) -> tuple[str, ...]:
    """Captions that between them begin with every word that a caption of this language can begin with."""
    one = Scene((Group("red", "circle", "small"), Group("blue", "square", "large")), "above")
    two = Scene((Group("red", "star", "small", 2), Group("blue", "cross", "large")), "left")
    captions = [caption(scene, code, frame) for frame in range(1, frame_count(code)) for scene in (one, two)]
    return tuple(dict.fromkeys(captions))


def written_openings(table: "pd.DataFrame") -> dict[str, tuple[str, ...]]:
    """Language -> the captions that people wrote in it for the requests of ``table``, as written and capitalised.

    Raises:
        InputError: no English caption is among them, so that nothing can be told from English.
    """

    found: dict[str, dict[str, None]] = {}
    for code, cell in zip(table["language"], table["reference"], strict=True):
        for text in json.loads(cell):
            found.setdefault(code, {}).update({text: None, text[:1].upper() + text[1:]: None})
    if "en" not in found:
        raise InputError("mechanism: no English captions among the requests: add en to prepare_data.languages")
    return {code: tuple(texts) for code, texts in found.items()}


def first_token_mass(
    table: "pd.DataFrame",
    logprobs: "np.ndarray",
    tokenizer: Any,
    written: Mapping[str, Sequence[str]] | None = None,
) -> "pd.DataFrame":
    """Probability (0..1) that the first token opens a caption of the asked language (``asked``) or of English.

    ``logprobs`` float32 ``(rows, vocabulary)``, rows as in ``table``; ``written`` language -> captions (default: those
    of the grammar).  Tokens that open captions of both count for neither.
    Returns ``language, arm, asked, english``, one row per request that is not English.
    """

    def tokens(code: str) -> set[int]:
        captions = openings(code) if written is None else written[code]
        return {tokenizer.encode(text, add_special_tokens=False)[0] for text in captions}

    openers = {code: tokens(code) for code in {"en", *table["language"]}}
    english, rows = openers["en"], []
    for number, (code, arm) in enumerate(zip(table["language"], table["arm"], strict=True)):
        if code == "en":
            continue
        asked = openers[code]
        mass = np.exp(logprobs[number])
        rows.append((code, arm, mass[sorted(asked - english)].sum(), mass[sorted(english - asked)].sum()))
    return pd.DataFrame(rows, columns=["language", "arm", "asked", "english"])


def whole_answers(settings: Mechanism, model: Any, processor: Any, seen: Any) -> "pd.DataFrame":
    """The image and text requests that are not English, with what the system says to them (column ``answer``)."""
    table = requests(settings)
    table = table[(table["arm"] != "blank") & (table["language"] != "en")].reset_index(drop=True)
    return table.assign(answer=_answers(settings, model, processor, seen, table))


def _answers(settings: Mechanism, model: Any, processor: Any, seen: Any, table: "pd.DataFrame") -> list[str]:

    options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
    return [found.text for found in generation.answer(model, processor, table, seen, **options)]


def turning(answers: "pd.DataFrame", most: int = WORDS) -> "pd.DataFrame":
    """At which word answers leave the asked language: ``language, arm, words, n, kept``.

    ``kept`` is the share (0..1) of answers whose first ``words`` (0 to ``most``) are all words of the asked language,
    by the closed word list of its grammar; an answer that ends before counts as kept.
    """

    rows = []
    for (code, arm), group in answers.groupby(["language", "arm"], sort=False):
        own = listed(code)
        flags = [[word in own for word in split_words(text)[:most]] for text in group["answer"]]
        for count in range(most + 1):
            kept = sum(all(answer[:count]) for answer in flags) / len(flags)
            rows.append((code, arm, count, len(flags), kept))
    return pd.DataFrame(rows, columns=["language", "arm", "words", "n", "kept"])


def forced_prefix(
    settings: Mechanism,
    model: Any,
    processor: Any,
    seen: Any,
    answers: "pd.DataFrame",
    words: Sequence[int] = (1, 2, 3),
) -> "pd.DataFrame":
    """LF+ (exact judge) of image captions whose first words are given: ``language, words, n, lf_plus``.

    ``answers`` are those of :func:`whole_answers`, the row for no given word.
    """

    table = answers[answers["arm"] == "image"].reset_index(drop=True)
    right = [reference(row) for row in table["reference"]]
    parts = []
    for given in (0, *words):
        prefixes = [" ".join(text.split()[:given]) for text in right]
        asked = table.assign(prefix=prefixes)
        said = _answers(settings, model, processor, seen, asked) if given else table["answer"]
        whole = [f"{prefix} {text}".strip() for prefix, text in zip(prefixes, said, strict=True)]
        kept = [parse(text, code) is not None for text, code in zip(whole, table["language"], strict=True)]
        parts.append(pd.DataFrame({"language": table["language"], "words": given, "kept": kept}))
    grouped = pd.concat(parts).groupby(["language", "words"])["kept"].agg(n="count", lf_plus="mean")
    return grouped.reset_index()


def reference(cell: str) -> str:
    """The reference answer of a request (second element of the JSON list)."""

    return json.loads(cell)[1]


def last_states(model: Any, processor: Any, table: "pd.DataFrame", seen: Any, batch_size: int) -> "np.ndarray":
    """Hidden states at the position that predicts the first answer token: float32 ``(rows, layers + 1, hidden)``.

    ``batch_size``: rows at a time, at most ``STATES``.
    """

    vlm, out, batch_size = plain(model), {}, min(batch_size, STATES)
    names = [image if isinstance(image, str) else None for image in table["image_id"]]
    asked = [Request(prompt, name) for prompt, name in zip(table["prompt"], names, strict=True)]
    prompts = encode_prompts(processor, asked, seen)
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
            images = model_inputs(vlm, seen.fetch(shown) | seen.aligned(ids)) if shown else {}
            found = vlm.model(input_ids=ids, **images, output_hidden_states=True, use_cache=False)
        states = torch.stack([state[:, -1].float().cpu() for state in found.hidden_states], dim=1)
        out.update(zip(rows, states.numpy(), strict=True))
    return np.stack([out[row] for row in range(len(prompts))])


def probe(states: "np.ndarray", table: "pd.DataFrame", folds: int = 4) -> "pd.DataFrame":
    """Cross-validated accuracy of a linear probe for the asked language: ``arm, layer, accuracy, chance``.

    ``chance`` is the share of the most frequent language.  Items are kept together in a fold, so that a probe never
    meets an image it was fitted on.  Of more than nine layers nine are probed, first and last among them.

    Raises:
        InputError: fewer than two images, so that none is left to be asked about.
    """

    if table["item_id"].nunique() < 2:
        raise InputError("mechanism: the probe needs two images: raise mechanism.probe_images or validation_images")
    depth, rows = states.shape[1], []
    layers = np.unique(np.linspace(0, depth - 1, min(depth, LAYERS)).round().astype(int))
    for arm in ARMS:
        chosen = (table["arm"] == arm).to_numpy()
        if not chosen.any():
            continue
        labels, items = table.loc[chosen, "language"], table.loc[chosen, "item_id"]
        splitter = GroupKFold(min(folds, items.nunique()))
        chance = float(labels.value_counts(normalize=True).max())
        for layer in layers.tolist():
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            found = cross_val_score(classifier, states[chosen, layer], labels, groups=items, cv=splitter)
            rows.append({"arm": arm, "layer": layer, "accuracy": float(found.mean()), "chance": chance})
    return pd.DataFrame(rows)


def stacked(answers: Sequence[Any]) -> "np.ndarray":
    """First-token log-probabilities of answers, float32 ``(rows, vocabulary)``."""

    return np.stack([answer.first_logprobs for answer in answers])


def verdicts(tables: "Mapping[str, pd.DataFrame]", tuned: str = "BM", cure: str = "TR") -> "pd.DataFrame":
    """Which predictions of the working account held: ``prediction, measured, wanted, held``, one row each.

    ``tables``: ``first_token``, ``turning``, ``forced_prefix``, ``probe``, each with a column ``system``; a prediction
    whose table or systems are missing is left out.  What counts as held is ours: more than half, or within 0.1.
    """

    def mean(name: str, column: str, **where: Any) -> float | None:
        table = tables.get(name)
        if table is None:
            return None
        for key, value in where.items():
            table = table[table[key] == value]
        return float(table.groupby("language")[column].mean().mean()) if len(table) else None

    rows: list[tuple[str, float | None, float | None, bool]] = []
    english = mean("first_token", "english", system=tuned, arm="image")
    if english is not None:
        rows.append((f"{tuned}: with an image the first token is English", english, 0.5, english > 0.5))
    first, last = (mean("turning", "kept", system=tuned, arm="image", words=count) for count in (1, WORDS))
    if first is not None and last is not None and last < 1:
        early = (1 - first) / (1 - last)
        rows.append(
            (f"{tuned}: the answers that leave the language leave it at the first word", early, 0.5, early > 0.5)
        )
    helped, level = (mean("forced_prefix", "lf_plus", system=name, words=2) for name in (tuned, cure))
    if helped is not None and level is not None:
        rows.append(
            (f"{tuned}: two given words bring it to within 0.1 of {cure}", helped, level - 0.1, helped >= level - 0.1)
        )
    if (table := tables.get("probe")) is not None:
        known = float(table[table["layer"] == table["layer"].max()]["accuracy"].min())
        rows.append(
            ("every system and arm: the asked language is still known (probe, last layer)", known, 0.9, known > 0.9)
        )
    return pd.DataFrame(rows, columns=["prediction", "measured", "wanted", "held"])
