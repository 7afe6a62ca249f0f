"""The tuning step of a profile at true size on one CUDA GPU: tokens/s, MFU and peak memory, with random weights.

Needs CUDA and refuses to start without it; nothing is downloaded, so the shapes of the profiles' models stand here.
Rank, row length, batch, precision and share of text are those of the profile; words of a row are drawn around
the mean of its data sets, so that some rows are long; the training is the project's own ``train``, micro-batch found
by probing memory.  ``-p`` changes a setting as in ``textreg run``; ``--layers`` makes a small model of the same width,
to try the command out.

    python bench/gpu_step.py --profile gpu
    python bench/gpu_step.py --profile gpu-7b -p tune.max_length=1024 -p tune.cache_features=true
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flops
import numpy as np
import pandas as pd
import torch

from textreg import compute
from textreg.errors import InputError
from textreg.runs import profiles
from textreg.settings import Tune
from textreg.training.batches import encode
from textreg.training.train import train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import llava_processor
from textreg.vlm.chat import IMAGE_TOKEN

WORDS = [f"w{number}" for number in range(1000)]
ANSWERED = 0.6  # share of a row's words that the assistant says
WORDS_SEEN, WORDS_READ = 260, 280  # mean tokens of a row with a picture and of a text-only one, four bytes a token
SALAMANDRA = {"vocab_size": 256_000, "max_position_embeddings": 8192, "tie_word_embeddings": False}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
          "image_size": 384, "patch_size": 14}  # fmt: skip
#: Model of a profile -> its shape, from its published config.json.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "BSC-LT/salamandra-2b-instruct": SALAMANDRA
    | {"hidden_size": 2048, "intermediate_size": 5440, "num_hidden_layers": 24, "num_attention_heads": 16,
       "num_key_value_heads": 16},
    "BSC-LT/salamandra-7b-instruct": SALAMANDRA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
       "num_key_value_heads": 8},
    "google/siglip-so400m-patch14-384": SO400M,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What is measured: the settings of a profile's arm, and the shapes of its models as transformers names them."""

    settings: Tune
    llm: Mapping[str, Any]
    tower: Mapping[str, Any]

    @property
    def patches(self) -> int:
        """Image tokens."""
        return (self.tower["image_size"] // self.tower["patch_size"]) ** 2


def step_of(profile: str, overrides: Sequence[str] = (), steps: int = 20) -> Step:
    """The tuning step of a profile's first arm with text, ``steps`` times.  Raises InputError where it has none or a
    model's shape is not known.
    """
    chosen = profiles.load(profile)
    profiles.check(chosen, overrides)
    align: Any = profiles.resolve(chosen, "align", overrides=overrides)
    tunes = [profiles.resolve(chosen, "tune", row["arm"], overrides) for row in chosen.arms]
    settings = next((tune for tune in tunes if isinstance(tune, Tune) and tune.text != "none"), None)
    if settings is None:
        raise InputError(f"profile {profile}: no arm with text to measure")
    if settings.precision == "4bit":
        raise InputError(f"profile {profile}: random weights are not quantized here; add -p tune.precision=bf16")
    if not {align.llm, align.tower} <= SHAPES.keys():
        raise InputError(f"profile {profile}: the shape of its models is not known here; add it to SHAPES")
    settings = replace(settings, steps=steps, log_steps=steps, checkpoint_steps=0)
    return Step(settings, SHAPES[align.llm], SHAPES[align.tower])


@dataclass(frozen=True)
class RandomImages:
    """Features (where the profile keeps them) or pixels of the right shape, drawn once."""

    step: Step
    runs_tower: bool

    def words(self, image_id: str) -> str:
        """A placeholder for every patch."""
        return IMAGE_TOKEN * self.step.patches

    def aligned(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def fetch(self, image_ids: list[str]) -> dict[str, torch.Tensor]:
        """bf16 [images, patches, width] or float32 [images, 3, side, side]."""
        generator = torch.Generator().manual_seed(0)
        if self.runs_tower:
            side = self.step.tower["image_size"]
            pixels = torch.rand(1, 3, side, side, generator=generator)
            return {"pixels": pixels.repeat(len(image_ids), 1, 1, 1)}
        shape = (1, self.step.patches, self.step.tower["hidden_size"])
        drawn = torch.randn(*shape, generator=generator, dtype=torch.bfloat16)
        return {"image_features": drawn.repeat(len(image_ids), 1, 1)}


def build(step: Step, layers: int | None = None, device: str = "cuda") -> tuple[torch.nn.Module, object]:
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
        text_config=LlamaConfig(**(dict(step.llm) | ({"num_hidden_layers": layers} if layers else {}))),
        vision_config=SiglipVisionConfig(**step.tower),
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
    image_processor = SiglipImageProcessorPil(size=dict.fromkeys(("height", "width"), step.tower["image_size"]))
    return model, llava_processor(image_processor, wrapped, config, 0)


def rows_of(step: Step) -> pd.DataFrame:
    """Rows of words for every step, the profile's share of them without an image; of the words the assistant says as
    many as is assumed.  Lengths are drawn around their mean, up to the row length.
    """
    generator = np.random.default_rng(0)
    settings = step.settings
    rows = []
    for number in range(settings.steps * settings.batch_size):
        shown = int((number + 1) * settings.text_share) == int(number * settings.text_share)
        room = settings.max_length - 8 - (step.patches if shown else 0)
        words = int(np.clip(generator.exponential(WORDS_SEEN if shown else WORDS_READ), 8, room))
        said = round(words * ANSWERED)
        question = " ".join(generator.choice(WORDS, words - said))
        turns = [
            {"role": "user", "content": f"<image> {question}" if shown else question},
            {"role": "assistant", "content": " ".join(generator.choice(WORDS, said))},
        ]
        rows.append({"row_id": number, "image_id": str(number) if shown else None, "messages": turns})
    return pd.DataFrame(rows)


def work_of(tuned: torch.nn.Module, processor: Any, rows: pd.DataFrame, images: RandomImages, settings: Tune) -> float:
    """Operations of all steps."""
    samples = encode(processor, rows, images, max_length=settings.max_length)
    order = np.arange(len(rows)).reshape(settings.steps, settings.batch_size)
    return float(flops.per_step(tuned, samples, order, cached=settings.cache_features).sum())


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
    model, processor = build(step, options.layers)
    tuned = attach(model, rank=settings.rank, alpha=settings.alpha)
    rows = rows_of(step)
    images = RandomImages(step, not settings.cache_features)
    work = work_of(tuned, processor, rows, images, settings)
    with tempfile.TemporaryDirectory() as out:
        log = train(tuned, processor, rows, images, settings, Path(out), order=range(len(rows)))
    device = torch.cuda.get_device_properties(0)
    peak = flops.matmul_peak("cuda", compute.set_up(precision=settings.precision).dtype)
    told = ("batch_size", "rank", "max_length", "precision", "activation_checkpointing", "text_share")
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
        "mfu_of_measured_bf16_matmul": round(work / log.seconds / peak, 4),
        "peak_memory_gib": round(log.peak_memory_mb / 1024, 2),
        "loss": round(log.loss, 4),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
