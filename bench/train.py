"""Training and generation at micro scale: ours beside a plain ``transformers.Trainer`` and ``generate``.

The setting: Llama 128/344, 4 layers, vocabulary 1,500; SigLIP 96/256, 3 layers, 16 image tokens; 75 % of the rows show
a 32x32 image (37 tokens), 25 % are text (33 tokens), 13 answer tokens; LoRA r=16 on the language model plus the
projector; batch 64, AdamW, clip 1.0, fp32, one thread.  Both sides train the same rows from the same weights.  Rates
are given per second of wall clock and per second of processor time: on a busy machine only the second one compares.

    python bench/train.py --steps 60 --repeats 3
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from textreg.data.images import ImageTable
from textreg.settings import Tune
from textreg.training.train import train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features
from textreg.vlm.generation import Request, answer

WORDS = [f"w{number}" for number in range(1490)]
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] }}"
    "{{ ' <end> ' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def write_parts(folder: Path) -> None:
    """The two random checkpoints of the setting."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        SiglipVisionConfig,
        SiglipVisionModel,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(0)
    specials = ["<pad>", "<end>", "<image>", "<user>", "<assistant>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    wrapped.chat_template = TEMPLATE
    language = LlamaConfig(
        vocab_size=1500,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(language).save_pretrained(folder / "llm")
    wrapped.save_pretrained(folder / "llm")
    tower = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        vision_use_head=False,
    )
    SiglipVisionModel(tower).save_pretrained(folder / "tower")
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "tower")


def rows_and_images(count: int) -> tuple[pd.DataFrame, ImageTable]:
    """``count`` rows of the setting, three quarters with an image of their own."""
    import io

    from PIL import Image

    generator = np.random.default_rng(0)
    rows, encoded = [], {}
    for number in range(count):
        shown = number % 4 != 0
        if shown:
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
            encoded[f"i{number}"] = buffer.getvalue()
        question = " ".join(generator.choice(WORDS, 6 if shown else 18))
        turns = [
            {"role": "user", "content": f"<image> {question}" if shown else question},
            {"role": "assistant", "content": " ".join(generator.choice(WORDS, 12))},
        ]
        rows.append({"row_id": number, "image_id": f"i{number}" if shown else None, "messages": turns})
    return pd.DataFrame(rows), ImageTable(encoded, {}, Path(), blank_side=32)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def ours(folder: Path, rows: pd.DataFrame, images: ImageTable, steps: int) -> tuple[float, float]:
    """Seconds of our training, tokenisation included, features computed before as a run does."""
    model, processor = assemble(str(folder / "llm"), str(folder / "tower"))
    features = open_features(model, processor, images)
    settings = Tune(steps=steps, batch_size=64, learning_rate=1e-3, log_steps=1000)
    tuned = attach(model, rank=16, alpha=32)
    with tempfile.TemporaryDirectory() as out:
        return timed(lambda: train(tuned, processor, rows, features, settings, out))


def peer(folder: Path, rows: pd.DataFrame, images: ImageTable, steps: int) -> tuple[float, float]:
    """Seconds of a plain Trainer: processor in the collator, pixels through the tower, the model's own loss."""
    from transformers import Trainer, TrainingArguments

    model, processor = assemble(str(folder / "llm"), str(folder / "tower"))
    tuned = attach(model, rank=16, alpha=32)
    records = [
        {
            "text": processor.apply_chat_template(row.messages),
            "image": images.image(row.image_id) if isinstance(row.image_id, str) else None,
        }
        for row in rows.itertuples()
    ]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pictures = [item["image"] for item in batch if item["image"] is not None]
        encoded = processor(
            text=[item["text"] for item in batch],
            images=pictures or None,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        labels = encoded["input_ids"].clone()
        starts = (labels == processor.tokenizer.convert_tokens_to_ids("<assistant>")).int().argmax(1)
        labels[torch.arange(labels.shape[1])[None] <= starts[:, None]] = -100
        labels[encoded["attention_mask"] == 0] = -100
        return dict(encoded) | {"labels": labels}

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model=tuned, args=arguments, data_collator=collate, train_dataset=records)
        return timed(trainer.train)


def generation(folder: Path, images: ImageTable, count: int, tokens: int) -> dict[str, tuple[float, float]]:
    """Seconds for ``count`` answers of ``tokens`` tokens at batch 128: ours, and ``generate`` on pixels."""
    model, processor = assemble(str(folder / "llm"), str(folder / "tower"))
    features = open_features(model, processor, images)
    model.generation_config.eos_token_id = [1499]  # random weights: nearly every answer runs to the limit
    ids = images.ids[:count]
    requests = [Request("<image> " + " ".join(WORDS[:6]), image_id) for image_id in ids]
    pictures = [images.image(image_id) for image_id in ids]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": requests[0].prompt}], add_generation_prompt=True
    )

    def stock() -> None:
        for start in range(0, count, 128):
            chosen = pictures[start : start + 128]
            inputs = processor(text=[prompt] * len(chosen), images=chosen, return_tensors="pt")
            model.generate(**inputs, max_new_tokens=tokens, do_sample=False)

    return {
        "ours": timed(lambda: answer(model, processor, requests, features, max_new_tokens=tokens)),
        "transformers generate": timed(stock),
    }


def main() -> None:
    """Measure in turns, print medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answers", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parts(folder)
        rows, images = rows_and_images(4096)
        trained = options.steps * 64
        found: dict[str, list[tuple[float, float, int]]] = {}
        for _ in range(options.repeats):
            for label, call in (
                ("train: ours, rows/s", lambda: ours(folder, rows, images, options.steps)),
                ("train: transformers Trainer, rows/s", lambda: peer(folder, rows, images, options.steps)),
            ):
                found.setdefault(label, []).append((*call(), trained))
            for label, seconds in generation(folder, images, options.answers, options.tokens).items():
                found.setdefault(f"generate: {label}, answers/s", []).append((*seconds, options.answers))
    report = {
        label: {
            "wall": round(statistics.median(count / wall for wall, _, count in runs), 1),
            "processor": round(statistics.median(count / cpu for _, cpu, count in runs), 1),
        }
        for label, runs in found.items()
    }
    print(
        json.dumps(
            {"machine": platform.processor() or platform.machine(), "torch": torch.__version__} | report, indent=2
        )
    )


if __name__ == "__main__":
    main()
