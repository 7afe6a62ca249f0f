"""What an accelerator says, in one run of at most ten minutes and one file, ``bench/results/accelerator.json``.

Random weights of the true shapes of the hub profiles (2B and 7B): the tuning step of :mod:`textreg` and that of TRL on
the same token ids, tokens/s, share of the measured peak (MFU) and peak memory; answers in batches beside ``generate``;
then the notebooks of the hub and pictures scales on folders with random weights, which the tests make.  TRL runs the
tower over pixels in every step, as it always does; the profile decides whether ours does.  What no longer fits into
the time is written down as left out.  ``--tiny`` does all of it at toy size on a CPU (a test does).

    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python bench/accelerator.py
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import flops
import gpu_step
import torch
import typer
from compare import RESULTS, VERSIONS, hardware, installed

from textreg import compute
from textreg.errors import RunError
from textreg.training.batches import Samples, encode, padded
from textreg.training.train import TrainLog, train
from textreg.vlm.adapters import attach
from textreg.vlm.generation import Request, answer

STEPS = {"gpu": 4, "gpu-7b": 2}  # of a profile, after one that is not measured
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
    free(device)
    model, processor = gpu_step.build(step, device=device)
    model = model.float() if step.settings.precision == "fp32" else model
    return attach(model, rank=step.settings.rank, alpha=step.settings.alpha), processor


def free(device: str) -> None:
    """Let go of what nobody holds any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def timed(call: Callable[[], Any], device: str) -> tuple[float, float, Any]:
    """Seconds, peak memory in GiB and the result of a call."""
    compute.reset_peak_memory(device)
    began = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, compute.peak_memory_mb(device) / 1024, result


def tuning(profile: str, step: gpu_step.Step, device: str) -> Iterator[dict[str, Any]]:
    """The steps of a profile by ours, by ours without recomputed activations, by TRL at the largest micro-batch that
    fits it, and by ours at that one."""
    settings, rows = step.settings, gpu_step.rows_of(step)
    peak = flops.matmul_peak(device, torch.float32 if settings.precision == "fp32" else torch.bfloat16)

    def told(side: str, micro: int, tokens: float, work: float, seconds: float, memory: float) -> dict[str, Any]:
        return {
            "what": f"tuning step, {profile}", "side": side, "micro_batch": micro,
            "tokens_per_s": round(tokens / seconds, 1), "mfu": round(work / seconds / peak, 4),
            "useful_tflops": round(work / seconds / 1e12, 1), "matmul_tflops": round(peak / 1e12, 1),
            "peak_memory_gib": round(memory, 2), "seconds": round(seconds, 2),
        }  # fmt: skip

    def ours(side: str, **changed: Any) -> tuple[dict[str, Any], Samples, float]:
        samples, work, memory, log = by_ours(replace(step, settings=replace(settings, **changed)), rows, device)
        return told(side, log.micro_batch, log.tokens, work, log.seconds, memory), samples, work

    first, samples, work = ours("ours")
    yield first
    yield from attempt(f"tuning step, {profile}", lambda: [ours("ours, all kept", activation_checkpointing=False)[0]])
    if not installed("trl"):
        yield {"what": f"tuning step, {profile}", "side": "TRL", "note": "not installed: trl"}
        return
    micro, seconds, memory = by_trl(step, samples, first["micro_batch"], device)
    yield told("TRL", micro, int(samples.lengths.sum()), work, seconds, memory)
    if micro != first["micro_batch"]:
        yield ours("ours, at the micro-batch of TRL", micro_batch=micro)[0]


def by_ours(step: gpu_step.Step, rows: Any, device: str) -> tuple[Samples, float, float, TrainLog]:
    """Our training: the tokenised rows, operations, peak memory in GiB, and its log; the model is gone afterwards.

    A step of its own comes first, so that what a device does once is not measured.
    """
    settings = step.settings
    images = gpu_step.RandomImages(step, not settings.cache_features)
    tuned, processor = fresh(step, device)
    samples = encode(processor, rows, images, max_length=settings.max_length)
    work = gpu_step.work_of(tuned, processor, rows, images, settings)
    with tempfile.TemporaryDirectory() as out:
        first = replace(settings, steps=1)
        once = train(tuned, processor, rows, images, first, Path(out) / "once", order=range(len(rows)))
        settings = replace(settings, micro_batch=once.micro_batch)
        _, memory, log = timed(
            lambda: train(tuned, processor, rows, images, settings, Path(out) / "all", order=range(len(rows))), device
        )
    return samples, work, memory, log


def by_trl(step: gpu_step.Step, samples: Any, largest: int, device: str) -> tuple[int, float, float]:
    """Micro-batch, seconds and peak memory in GiB of TRL's trainer over the same token ids, after a step of its own.

    The micro-batch is halved from ``largest`` until that step fits.
    """
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
        return batch | ({"pixel_values": pixels.repeat(shown, 1, 1, 1)} if shown else {})

    def trainer(steps: int, micro: int, out: str) -> Any:
        arguments = SFTConfig(
            output_dir=out, max_steps=steps, per_device_train_batch_size=micro,
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

    def fits(micro: int, out: str) -> bool:
        try:
            trainer(1, micro, out).train()
        except torch.OutOfMemoryError:
            tuned.zero_grad(set_to_none=True)
            return False
        return True

    micro = largest
    with tempfile.TemporaryDirectory() as out:
        while not fits(micro, out) and micro > 1:
            micro //= 2
            free(device)
        free(device)
        return micro, *timed(trainer(settings.steps, micro, out).train, device)[:2]


def attempt(what: str, rows: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Rows of a measurement; one that fails has a row that says how, and the others go on."""
    try:
        yield from rows()
    except (RunError, torch.OutOfMemoryError) as error:
        yield {"what": what, "note": f"did not fit: {str(error).splitlines()[0]}"}
    except Exception as error:  # minutes of a device are not lost to one of its sections
        traceback.print_exc()
        yield {"what": what, "failed": f"{type(error).__name__}: {error}"[:300]}


def answering(profile: str, step: gpu_step.Step, device: str) -> Iterator[dict[str, Any]]:
    """Answers of a fixed length to prompts of one length, by ours and by ``generate``, in batches of 128."""
    tuned, processor = fresh(step, device)
    model, images = tuned.merge_and_unload().eval(), gpu_step.RandomImages(step, True)
    model.to(model.get_input_embeddings().weight.dtype)  # the projector too, as an export has it
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
        call()  # what a device does once is not measured
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
    if done.returncode:
        typer.echo(done.stdout[-6000:] + done.stderr[-2000:])
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
        "command": "python bench/accelerator.py" + " --tiny" * tiny,
        "note": "mfu is of the measured rate of a matrix product (matmul_tflops)", "rows": [],
    }  # fmt: skip
    sections = [(measured, profile) for profile in STEPS for measured in (tuning, answering)]
    for measured, profile in sections:
        if time.monotonic() > ends:
            report["rows"].append({"what": f"{measured.__name__}, {profile}", "note": "left out: no time"})
            continue
        step = gpu_step.step_of(profile, SMALL if tiny else (), steps=2 if tiny else STEPS[profile])
        step = replace(step, **TINY) if tiny else step
        what = f"{measured.__name__}, {profile}"
        for row in attempt(what, partial(measured, profile, step, device)):
            report["rows"].append(row)
            typer.echo(json.dumps(row))
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for place in CHAINS if chains else ():
        report["rows"].append(chain(place, max(1.0, ends - time.monotonic())))
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"{out}: {len(report['rows'])} rows")
    if any("failed" in row or row.get("passed") is False for row in report["rows"]):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
