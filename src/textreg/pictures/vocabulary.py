"""A language model's checkpoint out of a GGUF file, and its vocabulary cut to the languages that are used.

A multilingual model of this size is mostly embedding: 262,144 rows, of which ten languages need a tenth.  Cutting is
exact on what is kept: a token keeps its row and its logit, and a text that was counted in is split into the same
tokens, because with a token every pair that can merge into it is kept, down to single signs and bytes.
``kept_tokens.json`` beside the model says which rows of the whole vocabulary they were.

Use: ``tokenizer, model, kept = cut(tokenizer, model, texts)``.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from textreg.errors import InputError

KEPT = "kept_tokens.json"


def from_gguf(file: str | Path, folder: str | Path) -> None:
    """Dequantise a GGUF file of a model that transformers knows into an ordinary float32 checkpoint (minutes).

    Raises :class:`InputError` where the package ``gguf`` is missing or the file is no such model.
    """
    file, folder = Path(file), Path(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except ImportError:
        raise InputError("a GGUF file needs the package gguf: pip install 'textreg[pictures]'") from None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a model that can be read ({str(error).splitlines()[0][:160]})") from None
    config = model.config
    config.quantization_config = None
    del config.quantization_config  # it is none any more, and a loader would look for the method
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def cut(tokenizer: Any, model: Any, texts: Iterable[str], special: Iterable[str] = ()) -> tuple[Any, Any, list[int]]:
    """Tokenizer and model with the tokens that ``texts`` take, and the ids that these had.

    tokenizer: a BPE one with bytes to fall back on; model: a causal one with tied embeddings, changed in place.
    ``special``: added tokens that are kept beside those with a role.  Raises :class:`InputError` for another kind.
    """
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    bpe = told["model"]
    if bpe["type"] != "BPE" or not bpe.get("byte_fallback"):
        raise InputError(f"a vocabulary of kind {bpe['type']} without bytes to fall back on cannot be cut")
    vocabulary = bpe["vocab"]
    name_of = {number: name for name, number in vocabulary.items()}
    merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in bpe["merges"]]
    parts = defaultdict(list)
    for left, right in merges:
        parts[left + right].append((left, right))
    added = {each["content"]: each["id"] for each in told["added_tokens"]}
    roles = {*tokenizer.all_special_tokens, *special} & {*added, *vocabulary}
    waiting = [*roles, *(name for name in vocabulary if len(name) == 6 and name.startswith("<0x"))]
    for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        waiting += {name_of[number] for number in ids}
    kept: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept.add(name)
            waiting += [part for pair in parts[name] for part in pair]
    ids = sorted(vocabulary.get(name, added.get(name)) for name in kept)
    new = {old: number for number, old in enumerate(ids)}
    bpe["vocab"] = {name_of[old]: number for old, number in new.items()}
    bpe["merges"] = [list(pair) for pair in merges if kept.issuperset((*pair, "".join(pair)))]
    told["added_tokens"] = [{**each, "id": new[each["id"]]} for each in told["added_tokens"] if each["id"] in new]
    told["post_processor"] = None  # the template alone says what begins a prompt
    marks = {f"{role}_token": getattr(tokenizer, f"{role}_token") for role in ("bos", "eos", "pad", "unk")}
    small = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(told)), **marks)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight[ids].clone()
        model.resize_token_embeddings(len(ids), mean_resizing=False)
        model.get_input_embeddings().weight.copy_(rows)
        model.tie_weights()
    for config in (model.config, model.generation_config):
        for role in ("bos", "eos", "pad"):
            old = getattr(config, f"{role}_token_id", None)
            if isinstance(old, int):
                setattr(config, f"{role}_token_id", new[old])
    return small, model, ids
