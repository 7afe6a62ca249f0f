"""What an accelerator says, in one run of at most ten minutes and one file, ``bench/results/accelerator.json``.

Random weights of the true shapes of the hub profiles (2B and 7B): the tuning step of :mod:`textreg` and that of TRL on
the same token ids, tokens/s, share of the measured peak (MFU) and peak memory; answers in batches beside ``generate``;
then the notebooks of the hub and pictures scales on folders with random weights, which the tests make.  TRL runs the
tower over pixels in every step, as it always does; the profile decides whether ours does.  What no longer fits into
the time is written down as left out.  ``--tiny`` does all of it at toy size on a CPU (a test does).

    python bench/accelerator.py
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import flops
import gpu_step
import torch
import typer
from compare import RESULTS, VERSIONS, hardware, installed

from textreg import compute
from textreg.training.batches import Samples, encode, padded
from textreg.training.train import TrainLog, train
from textreg.vlm.adapters import attach
from textreg.vlm.generation import Request, answer

PROFILES = ("gpu", "gpu-7b")
CHAINS = ("tests/runs/test_hub_chain.py", "tests/pictures/test_chain.py")
ASKED, TOKENS = 256, 32
TINY: dict[str, Any] = {
    "llm": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 1200, "max_position_embeddings": 8192},
    "tower": {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 56, "patch_size": 14},
}  # fmt: skip
SMALL = ("tune.batch_size=4", "tune.micro_batch=2", "tune.workers=0", "tune.max_length=300", "tune.precision=fp32")


def fresh(step: gpu_step.Step, device: str) -> tuple[Any, Any]:
    """A random model with an adapter, and its processor; what an earlier one held is free again."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    model, processor = gpu_step.build(step, device=device)
    model = model.float() if step.settings.precision == "fp32" else model
    return attach(model, rank=step.settings.rank, alpha=step.settings.alpha), processor


def timed(call: Callable[[], Any], device: str) -> tuple[float, float, Any]:
    """Seconds, peak memory in GiB and the result of a call."""
    compute.reset_peak_memory(device)
    began = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, compute.peak_memory_mb(device) / 1024, result


def tuning(profile: str, step: gpu_step.Step, device: str) -> Iterator[dict[str, Any]]:
    """The steps of a profile by ours and by TRL."""
    samples, work, memory, log = by_ours(step, device)
    settings, tokens = step.settings, int(samples.lengths.sum())
    peak = flops.matmul_peak(device, torch.float32 if settings.precision == "fp32" else torch.bfloat16)

    def told(side: str, seconds: float, memory: float) -> dict[str, Any]:
        return {
            "what": f"tuning step, {profile}", "side": side, "micro_batch": log.micro_batch,
            "tokens_per_s": round(tokens / seconds, 1), "mfu": round(work / seconds / peak, 4),
            "peak_memory_gib": round(memory, 2), "seconds": round(seconds, 2),
        }  # fmt: skip

    yield told("ours", log.seconds, memory)
    if not installed("trl"):
        yield {"what": f"tuning step, {profile}", "side": "TRL", "note": "not installed: trl"}
        return
    trainer = by_trl(step, samples, log.micro_batch, device)
    seconds, memory, _ = timed(trainer.train, device)
    yield told("TRL", seconds, memory)


def by_ours(step: gpu_step.Step, device: str) -> tuple[Samples, float, float, TrainLog]:
    """Our training: the tokenised rows, operations, peak memory in GiB, and its log; the model is gone afterwards."""
    settings, rows = step.settings, gpu_step.rows_of(step)
    images = gpu_step.RandomImages(step, not settings.cache_features)
    tuned, processor = fresh(step, device)
    samples = encode(processor, rows, images, max_length=settings.max_length)
    work = gpu_step.work_of(tuned, processor, rows, images, settings)
    with tempfile.TemporaryDirectory() as out:
        _, memory, log = timed(
            lambda: train(tuned, processor, rows, images, settings, Path(out), order=range(len(rows))), device
        )
    return samples, work, memory, log


def by_trl(step: gpu_step.Step, samples: Any, micro: int, device: str) -> Any:
    """TRL's trainer over the same token ids, at the micro-batch that ours found."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings, side = step.settings, step.tower["image_size"]
    tuned, processor = fresh(step, device)
    pixels = torch.rand(1, 3, side, side)

    def collate(items: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        chosen = [samples[item["number"]] for item in items]
        batch = padded(chosen, processor.tokenizer.pad_token_id)
        lengths = batch.pop("lengths")
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        shown = sum(sample.image_id is not None for sample in chosen)
        return batch | ({"pixel_values": pixels.expand(shown, -1, -1, -1)} if shown else {})

    with tempfile.TemporaryDirectory() as out:
        arguments = SFTConfig(
            output_dir=out, max_steps=settings.steps, per_device_train_batch_size=micro,
            gradient_accumulation_steps=settings.batch_size // micro, bf16=settings.precision != "fp32",
            gradient_checkpointing=settings.activation_checkpointing, optim="adamw_torch_fused", max_length=None,
            learning_rate=settings.learning_rate, save_strategy="no", report_to="none", disable_tqdm=True,
            logging_steps=1000, remove_unused_columns=False, use_cpu=device == "cpu",
            dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
    numbers = Dataset.from_dict({"number": list(range(len(samples)))})
    return SFTTrainer(
        model=tuned, args=arguments, train_dataset=numbers, data_collator=collate, processing_class=processor
    )


def answering(profile: str, step: gpu_step.Step, device: str) -> Iterator[dict[str, Any]]:
    """Answers of a fixed length to prompts of one length, by ours and by ``generate``, in batches of 128."""
    tuned, processor = fresh(step, device)
    model, images = tuned.merge_and_unload().eval(), gpu_step.RandomImages(step, True)
    model.generation_config.eos_token_id = [step.llm["vocab_size"] - 1]
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    asked = [Request(f"<image> w{n % 1000} w{n // 1000}", str(n)) for n in range(ASKED)]
    side = step.tower["image_size"]
    text = "<user> " + "<image>" * step.patches + " w1 w0 <assistant> "
    ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"], device=device)

    def stock() -> None:
        for _ in range(0, ASKED, 128):
            pixels = torch.rand(128, 3, side, side, device=device, dtype=model.dtype)
            batch = ids.expand(128, -1)
            model.generate(
                input_ids=batch, attention_mask=torch.ones_like(batch), pixel_values=pixels, do_sample=False,
                max_new_tokens=TOKENS,
            )  # fmt: skip

    def own() -> None:
        answer(model, processor, asked, images, max_new_tokens=TOKENS)

    for name, call in (("ours", own), ("generate", stock)):
        seconds, memory, _ = timed(call, device)
        yield {
            "what": f"answers, {profile}", "side": name, "answers_per_s": round(ASKED / seconds, 2),
            "peak_memory_gib": round(memory, 2), "seconds": round(seconds, 2),
        }  # fmt: skip


def chain(place: str, seconds_left: float) -> dict[str, Any]:
    """The notebooks of a scale, executed by their test, which makes the folders with random weights."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "", place]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=seconds_left
        )
    except subprocess.TimeoutExpired:
        return {"what": place, "note": "did not end in the time that was left"}
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return {"what": place, "passed": done.returncode == 0, "said": last, "seconds": round(time.perf_counter() - began)}


def main(
    tiny: Annotated[bool, typer.Option(help="toy size on the CPU")] = False,
    out: Annotated[Path, typer.Option(help="file that is written")] = RESULTS / "accelerator.json",
    minutes: Annotated[float, typer.Option(help="time for everything")] = 9.5,
    chains: Annotated[bool, typer.Option(help="execute the notebooks as well")] = True,
) -> None:
    """Measure and write one file, after every section anew."""
    if not tiny and not torch.cuda.is_available():
        typer.echo("this needs a CUDA device and finds none (--tiny runs on the CPU); nothing was run", err=True)
        raise typer.Exit(2)
    device, ends = ("cpu" if tiny else "cuda"), time.monotonic() + 60 * minutes
    report: dict[str, Any] = {
        "device": hardware() if tiny else torch.cuda.get_device_properties(0).name, "tiny": tiny,
        "versions": {name: installed(name) for name in VERSIONS if installed(name)},
        "command": "python bench/accelerator.py" + " --tiny" * tiny, "rows": [],
    }  # fmt: skip
    sections = [(measured, profile) for profile in PROFILES for measured in (tuning, answering)]
    for measured, profile in sections:
        if time.monotonic() > ends:
            report["rows"].append({"what": f"{measured.__name__}, {profile}", "note": "left out: no time"})
            continue
        step = gpu_step.step_of(profile, SMALL if tiny else (), steps=2 if tiny else 10)
        step = replace(step, **TINY) if tiny else step
        report["rows"] += list(measured(profile, step, device))
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for place in CHAINS if chains else ():
        report["rows"].append(chain(place, max(1.0, ends - time.monotonic())))
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"{out}: {len(report['rows'])} rows")


if __name__ == "__main__":
    typer.run(main)
