"""A training in a process of its own, for the tests that kill it or start two: ``python train_script.py JOB.json``."""

import dataclasses
import json
import os
import sys
from pathlib import Path

from conftest import image_table, row_table
from safetensors.torch import save_file

from textreg.settings import Tune
from textreg.training.batches import StepBatches, encode
from textreg.training.train import train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features


def main(job_file: str) -> None:
    """Train as the job says; the first process writes weights, log, and which micro-batches show images."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    settings, out = Tune(**job["settings"]), Path(job["out"])
    model, processor = assemble(job["llm"], job["tower"])
    features = open_features(model, processor, image_table())
    tuned = attach(model, rank=4, alpha=8)
    log = train(tuned, processor, row_table(), features, settings, out, order=job["order"])
    if os.environ.get("RANK", "0") != "0":
        return
    trained = {name: p.detach().contiguous() for name, p in tuned.named_parameters() if p.requires_grad}
    save_file(trained, out / "weights.safetensors")
    (out / "log.json").write_text(json.dumps(dataclasses.asdict(log)), encoding="utf-8")
    if job["order"]:
        samples = encode(processor, row_table(), image_tokens=4, max_length=settings.max_length)
        shape = {"steps": settings.steps, "batch_size": settings.batch_size}
        items = StepBatches(
            samples, job["order"], groups=settings.batch_size // log.micro_batch, features=features, **shape
        )
        shown = [any(samples[row].image_id for row in items.members(item)) for item in range(len(items))]
        (out / "shows_images.json").write_text(json.dumps(shown))


if __name__ == "__main__":
    main(sys.argv[1])
