"""The original language model of this scale: a base model taught, on text alone, to answer a question with a name.

A base model has no chat template and no habit of answering; this short stage gives it both, before it meets a picture:
key words and a question in, a name out, in many languages, with LoRA on all linear layers that is then folded into the
weights.  Only *text* concepts are told (:mod:`textreg.pictures.splits`).  What decides whether there is fidelity to
lose is a setting: ``english_share`` of the rows, because published models read mostly English, and
``cross_lingual``, the share of rows whose key words are English and whose answer is not.

Run it: ``textreg data backbone runs/emoji``.
"""

import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from pydantic.dataclasses import dataclass
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from textreg.compute import set_up
from textreg.pictures.folder import Concepts, read
from textreg.pictures.rows import World, prompts
from textreg.pictures.vocabulary import KEPT, cut
from textreg.settings import STRICT, Positive, Rate, Seed, Share, Some

TURN = "<start_of_turn>"  # a mark of Gemma's vocabulary that its base model has hardly read
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn['content'] }}"
    "{{ '" + TURN + "' if turn['role'] == 'user' else eos_token }}{% endfor %}"
)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Instruct:
    """Settings of the stage.  ``template``: the chat template that the model gets, since a base model has none."""

    languages: Some = field(default_factory=lambda: ["en", "de", "es", "fr", "it", "ja", "pl", "pt", "ru", "tr"])
    english_share: Share = 0.5
    cross_lingual: Share = 0.1
    steps: Positive = 100
    batch_size: Positive = 16
    learning_rate: Rate = 5e-4
    rank: Positive = 16
    seed: Seed = 0
    template: str = TEMPLATE


def make(root: str | Path, settings: Instruct, out: str | Path | None = None, say: Say = print) -> Path:
    """``root/backbone`` (or ``out``) from ``root/llm`` and ``root/pictures``: cut, taught, saved with its template."""
    set_up(1)
    root, out = Path(root), Path(out or Path(root) / "backbone")
    concepts = read(root / "pictures")
    concepts.require(settings.languages)
    tokenizer = AutoTokenizer.from_pretrained(root / "llm")
    model = AutoModelForCausalLM.from_pretrained(root / "llm", dtype=torch.float32)
    whole = len(tokenizer)
    tokenizer, model, kept = cut(tokenizer, model, texts_of(concepts, settings.languages), [TURN])
    say(f"vocabulary: {len(kept)} of {whole} tokens")
    tokenizer.chat_template = settings.template
    model = instruct(model, tokenizer, World(concepts), settings, say)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / KEPT).write_text(json.dumps(kept), "utf-8")
    (out / "made_with.json").write_text(json.dumps(asdict(settings), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return out


def texts_of(concepts: Concepts, languages: list[str]) -> list[str]:
    """Every name, key word and question of some languages, as rows have them: first on a line, or after a comma."""
    phrases = {phrase for code in languages for words in concepts.words[code].values() for phrase in words}
    phrases |= {name for code in languages for name in concepts.names[code].values()}
    questions = [question for code in languages for question in prompts()[code]]
    return [", \n", *questions, *sorted(phrases), *(f" {phrase}" for phrase in sorted(phrases))]


def pairs(world: World, settings: Instruct) -> Iterator[tuple[str, str]]:
    """Prompts and answers without end, from the seed."""
    rng = random.Random(f"{settings.seed}-instruct")
    foreign = [code for code in settings.languages if code != "en"]
    while True:
        code = "en" if not foreign or rng.random() < settings.english_share else rng.choice(foreign)
        crosses = code != "en" and rng.random() < settings.cross_lingual
        yield world.text_pair(code, "en" if crosses else code, rng)


def encoded(tokenizer: Any, pair: tuple[str, str], template: str) -> tuple[list[int], int]:
    """Token ids of a conversation, and how many of them stand before the answer."""
    prompt, answer = pair
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    texts = [tokenizer.apply_chat_template(turns[:count], chat_template=template, tokenize=False) for count in (1, 2)]
    before, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return whole, len(before)


def instruct(model: Any, tokenizer: Any, world: World, settings: Instruct, say: Say = print) -> Any:
    """The model, taught; a causal language model and its tokenizer in, the same class out, adapters folded in."""
    torch.manual_seed(settings.seed)
    lora = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", lora_dropout=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        tuned = get_peft_model(model, lora).train()
    weights = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(2, settings.steps), pct_start=0.1
    )
    rows = pairs(world, settings)
    decoder, head = tuned.get_base_model().model, tuned.get_base_model().lm_head
    for step in range(1, settings.steps + 1):
        batch = [encoded(tokenizer, next(rows), settings.template) for _ in range(settings.batch_size)]
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in batch])
        place = torch.arange(longest)
        ends = torch.tensor([len(ids) for ids, _ in batch])[:, None]
        starts = torch.tensor([start for _, start in batch])[:, None]
        learnt = ((place >= starts) & (place < ends))[:, 1:]  # pads follow, so that causal attention hides them
        states = decoder(input_ids=ids).last_hidden_state[:, :-1][learnt]
        loss = F.cross_entropy(head(states), ids[:, 1:][learnt])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        rate.step()
        if step % 10 == 0 or step == settings.steps:
            say(f"step {step} of {settings.steps}: {loss.item():.3f} nats per token")
    return tuned.merge_and_unload().eval()
