"""Does the picture act as an English document?  Five looks inside that test this account, beyond the paper.

A language model takes the language of its answer from the prompt, mostly, and from the context, a little.  Alignment
without prompts makes every picture an English context; English-only tuning then turns the little into much.  What is
looked at is the probability that the *first* token opens a sentence of English or of the asked language:

* *arms*: with the picture, a blank one, text in the asked language and in English;
* *dose*: word by word (the share of a text's words that is English) and visual token by visual token (the share that
  keeps its component along "English minus other languages" in the embedding space);
* *update*: how far tuning moves the state that predicts the first token along "English context minus context in the
  asked language", layer by layer;
* *patch*: that component taken out of the tuned model, and put into the untuned one;
* *layers*: the adapter in all layers but one, and in one alone.

Every request is a caption of the validation split.  At hub scale the openings are the first words of captions that
people wrote, and there is no dose of words.  The account and the looks are ours; directions as in Hinck et al. 2024.
Run it: ``papermill notebooks/07_mechanism.ipynb out.ipynb``.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from textreg.compute import set_up
from textreg.data.requests import read_requests
from textreg.errors import InputError
from textreg.scenes.grammar import caption, frame_count
from textreg.scenes.instructions import word_list
from textreg.scenes.scene import Group, Scene, from_json
from textreg.settings import Mechanism
from textreg.vlm import systems
from textreg.vlm.adapters import folded, plain
from textreg.vlm.features import model_inputs, projected
from textreg.vlm.generation import Request, encode_prompts
from textreg.vlm.systems import BACKBONE

ARMS = ("image", "blank", "text", "text_en")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MASS = ["asked", "english"]
Edit = Callable[[torch.Tensor], torch.Tensor]


def requests(settings: Mechanism) -> pd.DataFrame:
    """Caption requests of the first ``probe_images`` validation images that are not English, in every arm."""
    table = read_requests(settings.run, "validation", ARMS, ["caption"])
    table = table[table["language"] != "en"]
    items = table["item_id"].unique()[: settings.probe_images]
    return table[table["item_id"].isin(items)].reset_index(drop=True)


def open_system(settings: Mechanism, arm: str) -> tuple[Any, Any, Any]:
    """Model, processor and image features of the backbone or of a tuned arm, on the GPU in bf16 where there is one."""
    device = set_up(settings.threads).device
    precision = "bf16" if device == "cuda" else "fp32"
    ids = requests(settings)["image_id"].dropna().unique()
    return systems.open_system(settings.run, "" if arm == BACKBONE else arm, ids, precision=precision, device=device)


def first_token(
    model: Any,
    processor: Any,
    table: pd.DataFrame,
    seen: Any,
    *,
    edit: Edit | None = None,
    added: Mapping[int, torch.Tensor] | None = None,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the first answer token, float32 ``(rows, vocabulary)``, and the states that predict it,
    float32 ``(rows, layers + 1, hidden)``.

    ``edit`` is applied to the visual tokens ``(images, tokens, hidden)``; ``added``: layer (0 is the first) ->
    ``(rows, hidden)``, added to the state at the last position after that layer.
    """
    vlm, added = plain(model), added or {}
    names = [image if isinstance(image, str) else None for image in table["image_id"]]
    asked = [Request(prompt, name) for prompt, name in zip(table["prompt"], names, strict=True)]
    prompts = encode_prompts(processor, asked, seen)
    alike: dict[tuple[int, bool], list[int]] = {}  # equal lengths need no padding, whose place would shift the state
    for row, (ids, name) in enumerate(zip(prompts, names, strict=True)):
        alike.setdefault((len(ids), name is not None), []).append(row)
    batches = [
        rows[start : start + batch_size] for rows in alike.values() for start in range(0, len(rows), batch_size)
    ]
    logprobs: list[Any] = [None] * len(prompts)
    states: list[Any] = [None] * len(prompts)
    with torch.inference_mode(), folded(model):
        for rows in batches:
            ids = torch.from_numpy(np.stack([prompts[row] for row in rows])).to(vlm.device)  # (batch, length)
            shown = [names[row] for row in rows if names[row] is not None]
            images = model_inputs(vlm, seen.fetch(shown) | seen.aligned(ids)) if shown else {}
            if shown and edit is not None:
                tokens = _tokens(images)
                tokens.pooler_output = list(edit(torch.stack(list(tokens.pooler_output))))
            hooks = [
                vlm.model.language_model.layers[layer].register_forward_hook(_adding(vectors[rows]))
                for layer, vectors in added.items()
            ]
            try:
                found = vlm.model(input_ids=ids, **images, output_hidden_states=True, use_cache=False)
            finally:
                for hook in hooks:
                    hook.remove()
            here = vlm.lm_head(found.last_hidden_state[:, -1]).float().log_softmax(-1).cpu().numpy()
            stacked = torch.stack([state[:, -1].float().cpu() for state in found.hidden_states], dim=1).numpy()
            for place, row in enumerate(rows):
                logprobs[row], states[row] = here[place], stacked[place]
    return np.stack(logprobs), np.stack(states)


def _tokens(images: Mapping[str, Any]) -> Any:
    if "mm_encoder_outputs" not in images:
        raise InputError("mechanism: visual tokens are edited behind a LLaVA's projector, and this model is none")
    return images["mm_encoder_outputs"]["image"]


def _adding(vectors: torch.Tensor) -> Callable[[Any, Any, Any], Any]:
    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()  # (batch, length, hidden)
        state[:, -1] += vectors.to(state)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    return hook


# ------------------------------------------------------------------------------------------------ language of openings


@cache
def openings(code: str) -> tuple[str, ...]:
    """Captions that between them begin with every word that a caption of this language can begin with."""
    one = Scene((Group("red", "circle", "small"), Group("blue", "square", "large")), "above")
    two = Scene((Group("red", "star", "small", 2), Group("blue", "cross", "large")), "left")
    captions = [caption(scene, code, frame) for frame in range(1, frame_count(code)) for scene in (one, two)]
    return tuple(dict.fromkeys(captions))


def written_openings(run: str, codes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Language -> the captions that people wrote in it for the validation images, as written and capitalised.

    Raises:
        InputError: no English caption is among them, so that nothing can be told from English.
    """
    table = read_requests(run, "validation", ["image"], ["caption"])
    found: dict[str, dict[str, None]] = {}
    for code, cell in zip(table["language"], table["reference"], strict=True):
        for text in json.loads(cell):
            found.setdefault(code, {}).update({text: None, text[:1].upper() + text[1:]: None})
    if "en" not in found:
        raise InputError("mechanism: no English captions among the requests: add en to prepare_data.languages")
    return {code: tuple(texts) for code, texts in found.items() if code in {"en", *codes}}


def opening_mass(
    table: pd.DataFrame, logprobs: np.ndarray, tokenizer: Any, written: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """``table``'s ``language`` and ``arm`` with the probability (0..1) that the first token opens a caption of the
    asked language (``asked``) or of English (``english``).

    ``logprobs`` float32 ``(rows, vocabulary)``, rows as in ``table``; ``written`` language -> captions (default: those
    of the grammar).  Tokens that open captions of both count for neither.
    """

    def tokens(code: str) -> set[int]:
        captions = openings(code) if written is None else written[code]
        return {tokenizer.encode(text, add_special_tokens=False)[0] for text in captions}

    openers = {code: tokens(code) for code in {"en", *table["language"]}}
    mass, english = np.exp(logprobs), openers["en"]
    sums = [
        (row[sorted(openers[code] - english)].sum(), row[sorted(english - openers[code])].sum())
        for row, code in zip(mass, table["language"], strict=True)
    ]
    return table[["language", "arm"]].assign(**dict(zip(MASS, zip(*sums, strict=True), strict=True)))


# ------------------------------------------------------------------------------------------------ doses


def worded(table: pd.DataFrame) -> pd.DataFrame:
    """For each image request its content as single words instead, at every share of English words: ``share`` added."""
    rows = []
    for number, request in enumerate(table[table["arm"] == "image"].to_dict("records")):
        scene = from_json(json.loads(request["reference"])[0])
        asked = request["prompt"].partition("\n")[2]
        for share in SHARES:
            rng = random.Random(number)
            told, _ = word_list(scene, lambda: "en" if rng.random() < share else request["language"])  # noqa: B023
            rows.append(request | {"arm": "words", "prompt": f"{told}\n{asked}", "image_id": None, "share": share})
    return pd.DataFrame(rows)


def content(request: Mapping[str, Any], code: str) -> str:
    """The content of a request in a language: single words of its scene, or a caption that a person wrote."""
    first, *_ = json.loads(request["reference"])
    if not first.startswith("{"):
        return first
    return word_list(from_json(first), lambda: code)[0]


def along(opened: tuple[Any, Any, Any], shown: pd.DataFrame, direction: torch.Tensor, told: Mapping) -> pd.DataFrame:
    """Mean component along the direction, mean length and mean cosine (-1..1, the part of a vector's own length that
    lies along the direction), of visual tokens and of the words of each language."""
    model, processor, seen = opened
    weight = plain(model).get_input_embeddings().weight.detach().float()
    with torch.inference_mode():
        found = projected(plain(model), seen.fetch(list(shown["image_id"].unique())))["image"].pooler_output
    vectors = {"visual tokens": torch.cat([tokens.float() for tokens in found])}  # (images x tokens, hidden)
    for code, texts in told.items():
        ids = [token for text in texts for token in processor.tokenizer.encode(text, add_special_tokens=False)]
        vectors[f"words: {code}"] = weight[ids]
    rows = {
        name: {
            "along": float((each @ direction).mean()),
            "length": float(each.norm(dim=-1).mean()),
            "cosine": float((each @ direction / each.norm(dim=-1)).mean()),
        }
        for name, each in vectors.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def english_direction(model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> torch.Tensor:
    """Unit vector ``(hidden,)`` in the space of word embeddings: mean of English texts minus that of other languages.

    ``texts``: language -> texts of the same content, ``en`` among them; languages count alike.
    """
    weight = plain(model).get_input_embeddings().weight.detach().float()
    means = {
        code: weight[[token for text in told for token in tokenizer.encode(text, add_special_tokens=False)]].mean(0)
        for code, told in texts.items()
    }
    others = torch.stack([mean for code, mean in means.items() if code != "en"]).mean(0)
    direction = means["en"] - others
    return direction / direction.norm()


def keeping(direction: torch.Tensor, share: float, seed: int = 0) -> Edit:
    """An edit of visual tokens: a share of them, drawn from ``seed``, keeps its component along ``direction``, the
    rest loses it."""

    def edit(tokens: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        loses = torch.rand(tokens.shape[:2], generator=generator).to(tokens.device) >= share  # (images, tokens)
        along = (tokens.float() @ direction.to(tokens.device)) * loses
        return tokens - (along[..., None] * direction.to(tokens.device)).to(tokens.dtype)

    return edit


# ------------------------------------------------------------------------------------------------ the adapter's update


def pulling(table: pd.DataFrame, states: np.ndarray) -> np.ndarray:
    """Unit vector of every layer, ``(layers + 1, hidden)``: state under English context minus under context in the
    asked language, mean over the requests that have both arms.  The embedding of the last prompt token, layer 0, is
    the same in both, and its vector zero.
    """
    keyed = table.assign(row=range(len(table))).pivot(index=["item_id", "language"], columns="arm", values="row")
    pairs = keyed[["text_en", "text"]].dropna().astype(int)
    mean = (states[pairs["text_en"]] - states[pairs["text"]]).mean(0)
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    return np.divide(mean, length, out=np.zeros_like(mean), where=length > 1e-6)


def update_table(before: np.ndarray, after: np.ndarray, directions: np.ndarray) -> pd.DataFrame:
    """How far tuning moved the states of the same requests: ``layer, along, length`` (means over requests); ``along``
    is signed, towards English context."""
    moved = after - before  # (rows, layers + 1, hidden)
    along = np.einsum("rlh,lh->rl", moved, directions).mean(0)
    length = np.linalg.norm(moved, axis=-1).mean(0)
    return pd.DataFrame({"layer": range(len(along)), "along": along, "length": length}).iloc[1:]


def component(before: np.ndarray, after: np.ndarray, directions: np.ndarray, layer: int) -> torch.Tensor:
    """The part of tuning's update after a layer (0 is the first) that lies along its direction, ``(rows, hidden)``."""
    moved = (after - before)[:, layer + 1] @ directions[layer + 1]
    return torch.from_numpy(moved[:, None] * directions[layer + 1])


def layer_lambdas(layers: int) -> dict[tuple[str, int], dict[int, float]]:
    """Layer-wise lambdas: ``without`` one layer's adapter, and with it ``alone``."""
    return {
        (kept, one): {layer: float((layer == one) == (kept == "alone")) for layer in range(layers)}
        for kept in ("without", "alone")
        for one in range(layers)
    }


# ------------------------------------------------------------------------------------------------ verdicts


def verdicts(tables: Mapping[str, pd.DataFrame], tuned: str = "BM", cure: str = "TR") -> pd.DataFrame:
    """Which predictions of the account held: ``prediction, measured, against, held``, one row each.

    ``tables``: ``arms``, ``dose``, ``update``, ``patch``, each with a column ``system``; a prediction whose table or
    systems are missing is left out.
    """

    def mean(name: str, column: str = "english", **where: Any) -> float:
        rows = tables[name]
        for key, value in where.items():
            rows = rows[rows[key] == value]
        return float(rows[column].mean())

    def nearest_dose() -> tuple[float, float]:
        means = tables["dose"].groupby(["context", "share", "system"])["english"].mean().unstack("system")
        least = means.loc[(means[tuned] - means[BACKBONE]).idxmin()]
        return float(least[tuned]), float(least[BACKBONE])

    told: list[tuple[str, Callable[[], tuple[float, float]]]] = [
        (
            "the untuned model: English text pulls the answer into English, text in the asked language less",
            lambda: (mean("arms", system=BACKBONE, arm="text_en"), mean("arms", system=BACKBONE, arm="text")),
        ),
        (
            f"{tuned}: English text pulls the answer into English as the picture does, or more",
            lambda: (mean("arms", system=tuned, arm="text_en"), mean("arms", system=tuned, arm="image")),
        ),
        (
            f"{tuned}: a blank picture pulls more than it does in the untuned model",
            lambda: (mean("arms", system=tuned, arm="blank"), mean("arms", system=BACKBONE, arm="blank")),
        ),
        (
            f"{cure}: the picture pulls less than in {tuned}",
            lambda: (mean("arms", system=tuned, arm="image"), mean("arms", system=cure, arm="image")),
        ),
        (
            f"{tuned}: more English words in the context, more English in the answer",
            lambda: (
                mean("dose", system=tuned, context="words", share=1.0),
                mean("dose", system=tuned, context="words", share=0.0),
            ),
        ),
        (
            f"{tuned}: visual tokens that keep their English component pull more than those that lose it",
            lambda: (
                mean("dose", system=tuned, context="visual tokens", share=1.0),
                mean("dose", system=tuned, context="visual tokens", share=0.0),
            ),
        ),
        (f"{tuned}: more English than the untuned model at every dose; here where they are nearest", nearest_dose),
        (
            f"{tuned} is moved towards English context, {cure} is not, or less",
            lambda: (mean("update", "along", system=tuned), mean("update", "along", system=cure)),
        ),
        (
            f"{tuned}: taking that component out gives the language back",
            lambda: (mean("arms", system=tuned, arm="image"), mean("patch", system=tuned, done="taken out")),
        ),
        (
            "putting it into the untuned model takes the language away",
            lambda: (mean("patch", system=BACKBONE, done="put in"), mean("arms", system=BACKBONE, arm="image")),
        ),
    ]
    rows = []
    for prediction, measure in told:
        try:
            more, less = measure()
        except KeyError:
            continue
        if not np.isnan([more, less]).any():
            rows.append((prediction, more, less, more > less))
    return pd.DataFrame(rows, columns=["prediction", "measured", "against", "held"])
