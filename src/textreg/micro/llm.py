"""The micro backbone: a multilingual language model trained on text alone, and its tokenizer.

It stands in for the multilingual LLM of a real system, so it must know the languages *before* it ever sees an image:
there has to be fidelity to lose.  What it reads is in :mod:`textreg.micro.corpus`.  Not obvious: the loss, and the LM
head, are on answers alone, because contexts are random and teach little per FLOP; and a finish in which each answer
counts alike teaches questions, which a mean over tokens leaves at chance (we measured it).

Rebuild what the package ships: ``papermill notebooks/00_backbone.ipynb out.ipynb`` (the tower:
:mod:`textreg.micro.tower`).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from textreg.compute import set_up
from textreg.micro.corpus import example
from textreg.scenes import instructions
from textreg.scenes.grammar import caption
from textreg.scenes.scene import from_json
from textreg.scenes.splits import draw
from textreg.settings import Backbone

PAD, USER, ASSISTANT, END, IMAGE = "<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(settings: Backbone, examples: int = 30_000) -> "PreTrainedTokenizerFast":
    """Byte-level BPE over so many examples of all languages, with the chat template and the image placeholder."""

    rng = random.Random(settings.seed)
    texts = (text for _ in range(examples) for text in example(rng, settings))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[PAD, USER, ASSISTANT, END, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_llm(settings: Backbone, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """An untrained Llama of the configured size; embeddings are tied to the head."""

    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=int(settings.hidden * 8 / 3) // 16 * 16,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: "PreTrainedTokenizerFast", prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of the user turn (with the assistant's opening) and of the answer (with the end of turn)."""
    to_id = tokenizer.convert_tokens_to_ids
    user = [to_id(USER), *tokenizer.encode(prompt, add_special_tokens=False), to_id(END), to_id(ASSISTANT)]
    return user, [*tokenizer.encode(answer, add_special_tokens=False), to_id(END)]


def batches(
    tokenizer: "PreTrainedTokenizerFast", rng: random.Random, settings: Backbone, step: Callable[[], int]
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Endless right-padded batches ``(input_ids, labels)``, int64 ``(size, length)``, each of similar lengths."""

    size = settings.llm_batch
    while True:
        now = step()
        drawn = (encode(tokenizer, *example(rng, settings, now)) for _ in range(size * 16))
        pairs = sorted(drawn, key=lambda pair: len(pair[0] + pair[1]))
        groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        rng.shuffle(groups)
        for group in groups:
            length = max(len(user) + len(answer) for user, answer in group)
            ids = torch.full((size, length), tokenizer.pad_token_id)
            labels = torch.full((size, length), -100)
            for row, (user, answer) in enumerate(group):
                ids[row, : len(user) + len(answer)] = torch.tensor(user + answer)
                labels[row, len(user) : len(user) + len(answer)] = torch.tensor(answer)
            yield ids, labels


def learning_rate_factor(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up, a plateau at 1 for half of the steps, then linearly to 0."""
    return min(1.0, (step + 1) / warmup, 2 * (steps - step) / steps)


def train_llm(
    settings: Backbone, tokenizer: "PreTrainedTokenizerFast", report: Callable[[dict], None], folder: Path
) -> "LlamaForCausalLM":
    """Pre-train the language model; ``report`` receives ``{step, loss, seconds}`` every 100 steps.

    In the last ``finish_steps`` every answer counts alike, however long it is, because a question's answer is a word
    or two and is learnt late; and the softness of the rule is ``finish_pull``.  Weights and optimizer are saved under
    ``folder`` every 500 steps as safetensors, and an interrupted training goes on from there (with fresh examples).
    """
    compute = set_up(settings.threads, device=settings.device)
    model = build_llm(settings, tokenizer).to(compute.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.llm_learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    whole = settings.llm_steps + settings.finish_steps
    done, losses, start = _resume(model, optimizer, folder), [], time.perf_counter()
    stream = _stream(tokenizer, settings, done, lambda: done)
    while done < whole:
        if done == settings.llm_steps:
            stream = _stream(tokenizer, settings, done, lambda: settings.llm_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, done)
        ids, labels = (tensor.to(compute.device) for tensor in next(stream))  # (batch, length)
        loss = answer_loss(model, ids, labels, alike=done >= settings.llm_steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        done += 1
        if done % 100 == 0:
            mean = torch.stack(losses).mean().item()
            report({"step": done, "loss": round(mean, 4), "seconds": round(time.perf_counter() - start, 1)})
            losses = []
        if done % 500 == 0 or done == whole:
            _save_state(model, optimizer, done, folder)
    return model.cpu().half().float().eval()  # rounded as it is shipped


def _stream(
    tokenizer: "PreTrainedTokenizerFast", settings: Backbone, done: int, step: Callable[[], int]
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """The batches of the phase that begins, or goes on, after so many steps."""
    if done < settings.llm_steps:
        return batches(tokenizer, random.Random(f"{settings.seed}-{done}"), settings, step)
    begun = done - settings.llm_steps
    rng = random.Random(f"finish-{begun}" if begun else "finish")
    return batches(tokenizer, rng, replace(settings, context_pull=settings.finish_pull), step)


def learning_rate(settings: Backbone, step: int) -> float:
    """The rate of a step: one cycle of warm-up, plateau and decay, and one at half the rate for the finish."""
    if step < settings.llm_steps:
        return settings.llm_learning_rate * learning_rate_factor(step, settings.llm_steps)
    factor = learning_rate_factor(step - settings.llm_steps, settings.finish_steps, warmup=50)
    return settings.llm_learning_rate / 2 * factor


def answer_loss(
    model: "LlamaForCausalLM", ids: "torch.Tensor", labels: "torch.Tensor", *, alike: bool
) -> "torch.Tensor":
    """Cross-entropy of the answers of a batch ``(rows, length)``, in nats: a mean over tokens, or over answers."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (rows, length - 1, hidden)
    targets = labels[:, 1:]
    supervised = targets != -100
    each = cross_entropy(model.lm_head(hidden[supervised]), targets[supervised], reduction="none")  # (answer tokens,)
    if not alike:
        return each.mean()
    weights = (1 / supervised.sum(1).float())[:, None].expand_as(targets)[supervised]
    return (each * weights).sum() / len(ids)


def _save_state(model, optimizer, step: int, folder: Path) -> None:

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    save_file(tensors, folder / "state.tmp", metadata={"step": str(step)})
    (folder / "state.tmp").replace(folder / "state.safetensors")


def _resume(model, optimizer, folder: Path) -> int:

    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as state, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state.get_tensor(f"model.{name}"))
            prefix = f"optimizer.{name}."
            keys = [key for key in state.keys() if key.startswith(prefix)]  # noqa: SIM118 (not a mapping)
            optimizer.state[parameter] = {
                key.removeprefix(prefix): state.get_tensor(key).to(parameter.device) for key in keys
            }
        return int(state.metadata()["step"])


def held_out_scores(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", settings: Backbone) -> list[dict]:
    """What the untuned language model does on scenes of the validation split, by which a backbone is chosen.

    Rows ``language, arm, n, asked, english, exact``: the context of a description is a sentence in the asked language
    (arm ``text``) or in English (``text_en``); ``asked`` and ``english`` are the shares of answers that the grammar of
    the asked language, or English's alone, accepts; ``exact`` the share that also means the right scene, in either.
    """
    rows = []
    for code in settings.languages:
        rng = random.Random(f"held out-{code}")
        told = [
            instructions.description(draw(rng, "validation", canonical=True), code, rng)
            for _ in range(settings.held_out_scenes)
        ]
        for arm, source in ({"text": code} | ({"text_en": "en"} if code != "en" else {})).items():
            contexts = [caption(from_json(item.meaning), source, rng=rng) for item in told]
            prompts = [instructions.with_context(*pair) for pair in zip(contexts, told, strict=True)]
            answers = greedy(model, tokenizer, prompts)
            own = [
                instructions.meaning_in(answer, item.task, code) for answer, item in zip(answers, told, strict=True)
            ]
            english = [
                instructions.meaning_in(answer, item.task, "en") for answer, item in zip(answers, told, strict=True)
            ]
            right = [item.meaning in pair for item, *pair in zip(told, own, english, strict=True)]
            asked = [meaning is not None for meaning in own]
            instead = [meaning is not None and not ok for meaning, ok in zip(english, asked, strict=True)]
            shares = {"asked": asked, "english": instead, "exact": right}
            count = {"language": code, "arm": arm, "n": len(told)}
            rows.append(count | {name: sum(flags) / len(told) for name, flags in shares.items()})
    return rows


def held_out_questions(
    model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", settings: Backbone
) -> list[dict]:
    """What share of questions about validation scenes, told in the asked language, it answers right before any tuning.

    Rows ``language, kind, n, right``; ``n`` is a fifth of ``held_out_scenes``, and at least one.
    """
    rows, n = [], max(1, settings.held_out_scenes // 5)
    for code in settings.languages:
        for kind in instructions.QUESTIONS:
            rng, prompts, told = random.Random(f"questions-{code}"), [], []
            while len(told) < n:
                scene = draw(rng, "validation", canonical=True)
                if kind in instructions.question_kinds(scene):
                    told.append(instructions.question(scene, code, rng, kind))
                    prompts.append(instructions.with_context(caption(scene, code, rng=rng), told[-1]))
            answers = greedy(model, tokenizer, prompts)
            right = [instructions.meaning_in(a, kind, code) == i.meaning for a, i in zip(answers, told, strict=True)]
            rows.append({"language": code, "kind": kind, "n": n, "right": sum(right) / n})
    return rows


def greedy(model: "LlamaForCausalLM", tokenizer, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
    """Greedy answers of the bare language model, left-padded batches of 100."""

    answers = []
    for start in range(0, len(prompts), 100):
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + 100]]
        inputs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answers += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]
