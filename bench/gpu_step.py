"""The tuning step at true size on one CUDA GPU: tokens/s, MFU and peak memory, with random weights.

Needs CUDA and refuses to start without it; nothing is downloaded.  The shapes are those of Salamandra 2B or 7B with
SigLIP-so400m (384 pixels, 729 image tokens); a quarter of the rows is text-only; the training is the project's own
``train``: LoRA r=16, bf16, micro-batch found by probing memory.  ``--layers`` makes a small model of the same width,
to try the command out.

    python bench/gpu_step.py --size 2b
    python bench/gpu_step.py --size 7b --activation-checkpointing --packing --tower
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from textreg.adapters import attach
from textreg.assembly import llava_processor
from textreg.config import Tune
from textreg.training import train

SHAPES = {
    "2b": {
        "hidden_size": 2048,
        "intermediate_size": 5440,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
VOCABULARY = 256_000
TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
WORDS = [f"w{number}" for number in range(1000)]


@dataclass(frozen=True)
class RandomImages:
    """Features (or, with ``runs_tower``, pixels) of the right shape, drawn once."""

    runs_tower: bool

    def fetch(self, image_ids: list[str]) -> dict[str, torch.Tensor]:
        """bf16 [images, 729, 1152] or float32 [images, 3, 384, 384]."""
        generator = torch.Generator().manual_seed(0)
        if self.runs_tower:
            return {"pixel_values": torch.rand(1, 3, 384, 384, generator=generator).expand(len(image_ids), -1, -1, -1)}
        drawn = torch.randn(1, 729, 1152, generator=generator, dtype=torch.bfloat16)
        return {"image_features": drawn.expand(len(image_ids), -1, -1)}


def build(size: str, layers: int | None) -> tuple[torch.nn.Module, object]:
    """A random LLaVA of true shape in bf16 on the GPU, projector in fp32, and a processor with a word-level
    tokenizer.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    specials = ["<pad>", "<end>", "<image>", "<user>", "<assistant>"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*specials, *WORDS])}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens={"image_token": "<image>"},
    )
    wrapped.chat_template = (
        "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] }}"
        "{{ ' <end> ' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    shape = SHAPES[size] | ({"num_hidden_layers": layers} if layers else {})
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=VOCABULARY, max_position_embeddings=8192, tie_word_embeddings=False, **shape
        ),
        vision_config=SiglipVisionConfig(**TOWER),
        image_token_index=2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.model.multi_modal_projector.float()
    image_processor = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    return model, llava_processor(image_processor, wrapped, config, 0)


def rows_of(count: int, prompt: int, answer: int, text_share: float) -> pd.DataFrame:
    """Rows of ``prompt`` + ``answer`` words, the given share of them without an image."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        shown = number % round(1 / text_share) != 0 if text_share else True
        question = " ".join(generator.choice(WORDS, prompt))
        turns = [
            {"role": "user", "content": f"<image> {question}" if shown else question},
            {"role": "assistant", "content": " ".join(generator.choice(WORDS, answer))},
        ]
        rows.append({"row_id": number, "image_id": str(number) if shown else None, "messages": turns})
    return pd.DataFrame(rows)


def main() -> int:
    """Run the steps and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="2b")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=0, help="0: found by probing memory")
    parser.add_argument("--text-share", type=float, default=0.25)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--tower", action="store_true", help="run the tower on every batch instead of kept features")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--layers", type=int, help="fewer layers, for a trial")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA GPU and finds none; nothing was run", file=sys.stderr)
        return 2
    model, processor = build(options.size, options.layers)
    tuned = attach(model, rank=16, alpha=32)
    settings = Tune(
        steps=options.steps,
        batch_size=options.batch_size,
        micro_batch=options.micro_batch,
        learning_rate=1e-4,
        max_length=1024,
        packing=options.packing,
        precision="bf16",
        activation_checkpointing=options.activation_checkpointing,
        log_steps=options.steps,
    )
    rows = rows_of(options.steps * options.batch_size, prompt=58, answer=59, text_share=options.text_share)
    with tempfile.TemporaryDirectory() as out:
        log = train(tuned, processor, rows, RandomImages(options.tower), settings, Path(out), order=range(len(rows)))
    device = torch.cuda.get_device_properties(0)
    report = {
        "gpu": device.name,
        "gpu_memory_gib": round(device.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "options": vars(options),
        "micro_batch": log.micro_batch,
        "tokens_per_s": round(log.tokens_per_s, 1),
        "rows_per_s": round(log.rows_per_s, 2),
        "mfu_of_measured_bf16_matmul": round(log.mfu, 4),
        "peak_memory_gib": round(log.peak_memory_mb / 1024, 2),
        "loss": round(log.loss, 4),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
