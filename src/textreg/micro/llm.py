"""The micro backbone: a multilingual language model trained on text alone, and its tokenizer.

It stands in for the multilingual LLM of a real system, so it must know the languages *before* it ever sees an image:
there has to be fidelity to lose.  Three choices are not obvious:

* *The content and the language of an answer are independent.*  A context in one language (or key words) comes in
  front of a prompt in another; the content is taken from the first, the language from the second.  Image tokens later
  stand exactly where the context stood.
* *Loss on answers only*, with the LM head applied there alone; contexts are random and teach little per FLOP.
* *A curriculum.*  Full sentences from the start leave the model on a plateau where every colour is as likely as any
  other (we measured it: no progress in thousands of steps); bare phrases teach the words first, in minutes.

Rebuild what the package ships: ``papermill notebooks/00_backbone.ipynb out.ipynb`` (the tower:
:mod:`textreg.micro.tower`).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from textreg.compute import fast_fp32, set_up
from textreg.scenes import instructions, languages
from textreg.scenes.grammar import caption
from textreg.scenes.scene import Scene, sample
from textreg.settings import Backbone

WHOLE_SCENES, FULL_MIXTURE = 0.2, 0.28  # shares of the training at which the curriculum moves on
THREE_GROUPS = 0.2  # drawn on top of those that chance brings: which colour goes with which shape is learned last
PAD, USER, ASSISTANT, END, IMAGE = "<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def example(rng: random.Random, codes: Sequence[str], progress: float = 1.0) -> tuple[str, str]:
    """One text-only training pair ``(prompt, answer)``; ``progress`` in 0..1 says how far the training is.

    The curriculum: first bare phrases of one group in other languages, then bare phrases of whole scenes, then the
    full mixture.  Of that, half are descriptions after a context in any language (a tenth of them without context, so
    that an answer needs none), a fifth questions after a context, the rest the text tasks of
    :mod:`textreg.scenes.instructions`.
    """
    code, source, kind = rng.choice(codes), rng.choice(codes), rng.random()
    if progress < WHOLE_SCENES:
        return _phrase(sample(rng, groups=1), code, source, rng)
    scene = sample(rng, canonical=rng.random() < 0.5, groups=3 if rng.random() < THREE_GROUPS else None)
    if progress < FULL_MIXTURE:
        return _phrase(scene, code, source, rng)
    if kind < 0.5:
        told = instructions.description(scene, code, rng)
        if rng.random() < 0.1:
            return told.prompt, told.answer
        return instructions.with_context(_context(scene, source, rng), told), told.answer
    if kind < 0.7:
        asked = instructions.question(scene, code, rng)
        return instructions.with_context(_context(scene, source, rng), asked), asked.answer
    pair = instructions.text_instruction(scene, code, rng, source=source)
    return pair.prompt, pair.answer


def _phrase(scene: Scene, code: str, source: str, rng: random.Random) -> tuple[str, str]:
    told = instructions.description(scene, code, rng)
    return instructions.with_context(caption(scene, source, frame=0), told), caption(scene, code, frame=0)


def _context(scene, source: str, rng: random.Random) -> str:
    if rng.random() < 0.25:
        return instructions.key_words(scene, source)
    return caption(scene, source, frame=0) if rng.random() < 0.3 else caption(scene, source, rng=rng)


def build_tokenizer(settings: Backbone, examples: int = 30_000) -> "PreTrainedTokenizerFast":
    """Byte-level BPE over so many examples of all languages, with the chat template and the image placeholder."""

    rng, codes = random.Random(settings.seed), languages.codes()
    texts = (text for _ in range(examples) for text in example(rng, codes))
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
    tokenizer, rng: random.Random, size: int, codes: Sequence[str], progress: Callable[[], float]
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Endless right-padded batches ``(input_ids, labels)``, int64 ``(size, length)``, each of similar lengths."""

    while True:
        now = progress()
        drawn = (encode(tokenizer, *example(rng, codes, now)) for _ in range(size * 16))
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

    Weights and optimizer are saved under ``folder`` every 500 steps as safetensors, and an interrupted training
    goes on from there (with fresh examples).
    """

    compute = set_up(settings.threads, device=settings.device)
    model = build_llm(settings, tokenizer).to(compute.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.llm_learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    first = _resume(model, optimizer, folder)
    done, losses, start = first, [], time.perf_counter()
    rng = random.Random(f"{settings.seed}-{first}")
    stream = batches(tokenizer, rng, settings.llm_batch, languages.codes(), lambda: done / settings.llm_steps)
    with fast_fp32(compute):
        for step in range(first, settings.llm_steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.llm_learning_rate * learning_rate_factor(step, settings.llm_steps)
            ids, labels = (tensor.to(compute.device) for tensor in next(stream))  # (batch, length)
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            supervised = labels[:, 1:] != -100
            loss = cross_entropy(model.lm_head(hidden[supervised]), labels[:, 1:][supervised])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            done = step + 1
            if done % 100 == 0:
                mean = torch.stack(losses).mean().item()
                report({"step": done, "loss": round(mean, 4), "seconds": round(time.perf_counter() - start, 1)})
                losses = []
            if done % 500 == 0:
                _save_state(model, optimizer, done, folder)
    return model.cpu().eval()


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


def held_out_scores(model: "LlamaForCausalLM", tokenizer, count: int, seed: int = 1_000_003) -> list[dict]:
    """Text fidelity and exact answers per language on scenes not used in training.

    Every description has its context in a language drawn at random.  Returns rows ``language, n, fidelity, exact``:
    the share whose answer the language's own grammar accepts, and the share that also means the right scene.
    """
    rows = []
    for code in languages.codes():
        rng, told, prompts = random.Random(f"{seed}-{code}"), [], []
        for _ in range(count):
            scene = sample(rng, canonical=True)
            told.append(instructions.description(scene, code, rng))
            prompts.append(instructions.with_context(caption(scene, rng.choice(languages.codes()), rng=rng), told[-1]))
        read = [
            instructions.meaning_in(answer, item.task, code)
            for answer, item in zip(greedy(model, tokenizer, prompts), told, strict=True)
        ]
        rows.append(
            {
                "language": code,
                "n": count,
                "fidelity": sum(meaning is not None for meaning in read) / count,
                "exact": sum(meaning == item.meaning for meaning, item in zip(read, told, strict=True)) / count,
            }
        )
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
