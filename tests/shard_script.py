"""One loss and its gradients with the model sharded over the processes (FSDP2), for the test that compares them with
one process: ``torchrun shard_script.py JOB.json``.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import image_table, row_table
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from textreg.training.batches import StepBatches, encode
from textreg.training.checkpoints import gathered
from textreg.training.learner import Learner
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features


def main(job_file: str) -> None:
    """Each process takes its own row of every step; the first writes the summed gradients of all of them, and the
    gathered weights.
    """
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model, processor = assemble(job["llm"], job["tower"])
    features = open_features(model, processor, image_table())
    tuned = attach(model, rank=4, alpha=8)
    learner = Learner(tuned)
    trained = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]
    mesh = init_device_mesh("cpu", (world,))
    for layer in tuned.get_base_model().model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    samples = encode(processor, row_table(), image_tokens=4, max_length=256)
    rows = job["rows"]
    batches = StepBatches(samples, rows, steps=1, batch_size=len(rows), groups=world, features=features)
    count = sum(int((batches[group]["labels"][:, 1:] != -100).sum()) for group in range(world))
    loss = learner(**{**batches[rank], "num_items_in_batch": count})["loss"]
    loss.backward()
    gradients = {
        name: parameter.grad.full_tensor().contiguous() * world  # FSDP averages over the processes
        for name, parameter in tuned.named_parameters()
        if parameter.requires_grad
    }
    shards = sum(parameter.to_local().numel() for parameter in learner.parameters())
    whole = sum(parameter.numel() for parameter in learner.parameters())
    state = gathered(learner, trained)
    if rank == 0:
        save_file(state, Path(job["out"]) / "gathered.safetensors")
        save_file(gradients, Path(job["out"]) / "gradients.safetensors")
        (Path(job["out"]) / "share.json").write_text(json.dumps(shards / whole))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
