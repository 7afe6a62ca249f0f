"""The tuning step of a profile at true size on one CUDA GPU: tokens/s, MFU and peak memory, with random weights.

Needs CUDA and refuses to start without it; nothing is downloaded.  Shapes, rank, row length, batch, packing, precision
and share of text are those of the profile, words of a row the mean that its plan counts, drawn so that some rows are
long; the training is the project's own ``train``, micro-batch found by probing memory.  ``-p`` changes a setting as in
``textreg run``; ``--layers`` makes a small model of the same width, to try the command out.

    python bench/gpu_step.py --profile gpu
    python bench/gpu_step.py --profile gpu-7b -p tune.max_length=1024 -p tune.cache_features=true
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from textreg.errors import InputError
from textreg.runs import budget, profiles, sizes
from textreg.runs.sizes import LanguageModel, Tower
from textreg.settings import Align, PrepareData, Tune
from textreg.training.train import train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import llava_processor

WORDS = [f"w{number}" for number in range(1000)]


@dataclass(frozen=True)
class Step:
    """What is measured: the settings and shapes of a profile, and the mean words of its two kinds of rows."""

    settings: Tune
    llm: LanguageModel
    tower: Tower
    seen: float
    read: float


def step_of(profile: str, overrides: Sequence[str] = (), steps: int = 20) -> Step:
    """The tuning step of a profile's first arm with text, ``steps`` times.  Raises InputError where it has none or a
    model's shape is not known.
    """
    chosen = profiles.load(profile)
    profiles.check(chosen, overrides)
    data, align = (profiles.resolve(chosen, stage, overrides=overrides) for stage in ("prepare_data", "align"))
    tunes = [profiles.resolve(chosen, "tune", row["arm"], overrides) for row in chosen.arms]
    settings = next((tune for tune in tunes if isinstance(tune, Tune) and tune.text != "none"), None)
    if settings is None or not isinstance(align, Align) or not isinstance(data, PrepareData):
        raise InputError(f"profile {profile}: no arm with text to measure")
    if settings.precision == "4bit":
        raise InputError(f"profile {profile}: random weights are not quantized here; add -p tune.precision=bf16")
    llm, tower = sizes.find(align.vlm or align.llm, "llm"), sizes.find(align.vlm or align.tower, "tower")
    if not isinstance(llm, LanguageModel) or not isinstance(tower, Tower):
        raise InputError(f"profile {profile}: the shape of its models is not known here; give local folders")
    seen, read = budget.row_words(settings, data, tower)
    return Step(replace(settings, steps=steps, log_steps=steps, checkpoint_steps=0), llm, tower, seen, read)


@dataclass(frozen=True)
class RandomImages:
    """Features (where the profile keeps them) or pixels of the right shape, drawn once."""

    tower: Tower
    runs_tower: bool

    def fetch(self, image_ids: list[str]) -> dict[str, torch.Tensor]:
        """bf16 [images, patches, width] or float32 [images, 3, side, side]."""
        generator = torch.Generator().manual_seed(0)
        if self.runs_tower:
            side = self.tower.image_size
            pixels = torch.rand(1, 3, side, side, generator=generator)
            return {"pixel_values": pixels.expand(len(image_ids), -1, -1, -1)}
        drawn = torch.randn(1, self.tower.patches, self.tower.hidden, generator=generator, dtype=torch.bfloat16)
        return {"image_features": drawn.expand(len(image_ids), -1, -1)}


def build(
    llm: LanguageModel, tower: Tower, layers: int | None = None, device: str = "cuda"
) -> tuple[torch.nn.Module, object]:
    """A random LLaVA of true shape in bf16 on the device, projector in fp32, and a processor with a word-level
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
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=llm.hidden,
            intermediate_size=llm.intermediate,
            num_hidden_layers=layers or llm.layers,
            num_attention_heads=llm.heads,
            num_key_value_heads=llm.kv_heads,
            vocab_size=llm.vocabulary,
            tie_word_embeddings=llm.tied,
            max_position_embeddings=8192,
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=tower.hidden,
            intermediate_size=tower.intermediate,
            num_hidden_layers=tower.layers,
            num_attention_heads={1152: 16}.get(tower.hidden, tower.hidden // 64),
            image_size=tower.image_size,
            patch_size=tower.patch_size,
        ),
        image_token_index=2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.model.multi_modal_projector.float()
    image_processor = SiglipImageProcessorPil(size={"height": tower.image_size, "width": tower.image_size})
    return model, llava_processor(image_processor, wrapped, config, 0)


def rows_of(step: Step) -> pd.DataFrame:
    """Rows of words for every step, the profile's share of them without an image; of the words the assistant says as
    many as the plan assumes.  Lengths are drawn around the mean of the plan, up to the row length.
    """
    generator = np.random.default_rng(0)
    settings = step.settings
    rows = []
    for number in range(settings.steps * settings.batch_size):
        shown = int((number + 1) * settings.text_share) == int(number * settings.text_share)
        room = settings.max_length - 8 - (step.tower.patches if shown else 0)
        words = int(np.clip(generator.exponential(step.seen if shown else step.read), 8, room))
        said = round(words * budget.ANSWERED)
        question = " ".join(generator.choice(WORDS, words - said))
        turns = [
            {"role": "user", "content": f"<image> {question}" if shown else question},
            {"role": "assistant", "content": " ".join(generator.choice(WORDS, said))},
        ]
        rows.append({"row_id": number, "image_id": str(number) if shown else None, "messages": turns})
    return pd.DataFrame(rows)


def main() -> int:
    """Run the steps and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="gpu", help="a profile of the repository, such as gpu or gpu-7b")
    parser.add_argument("-p", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the profile")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--layers", type=int, help="fewer layers, for a trial")
    options = parser.parse_args()
    try:
        step = step_of(options.profile, options.p, options.steps)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA GPU and finds none; nothing was run", file=sys.stderr)
        return 2
    settings = step.settings
    model, processor = build(step.llm, step.tower, options.layers)
    tuned = attach(model, rank=settings.rank, alpha=settings.alpha)
    rows = rows_of(step)
    images = RandomImages(step.tower, not settings.cache_features)
    with tempfile.TemporaryDirectory() as out:
        log = train(tuned, processor, rows, images, settings, Path(out), order=range(len(rows)))
    device = torch.cuda.get_device_properties(0)
    told = ("batch_size", "rank", "max_length", "packing", "precision", "activation_checkpointing", "text_share")
    report = {
        "gpu": device.name,
        "gpu_memory_gib": round(device.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "options": vars(options),
        "settings": {name: getattr(settings, name) for name in told},
        "runs_tower": not settings.cache_features,
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
