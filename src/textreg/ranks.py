"""The processes of one training, as ``torchrun`` or ``accelerate launch`` starts them: one per GPU.

Their numbers come from the environment, so that one process alone needs no process group.  The choices that are not
obvious: the group is made before the model is tried for memory, because the processes must agree on what they found,
and accelerate takes over a group that it finds; it carries tensors of both kinds of memory, because FSDP gathers on
the CPU.  Checked by ``python -m pytest tests/runs/test_parallel.py``.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(minutes=30)  # as long as the Trainer waits: one process may still be reading pictures


def world() -> int:
    """Number of processes; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this process is the first, which alone writes files."""
    return os.environ.get("RANK", "0") == "0"


def local() -> int | None:
    """Number of this process on its machine, hence of its GPU; None without a launcher."""
    given = os.environ.get("LOCAL_RANK")
    return None if given is None else int(given)


def join(device: str) -> None:
    """Make the process group, where there are several processes and none was made yet."""

    if world() > 1 and not dist.is_initialized():
        dist.init_process_group("gloo" if device == "cpu" else "cuda:nccl,cpu:gloo", timeout=PATIENCE)


def leave() -> None:
    """End the process group, if there is one."""

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def smallest(value: int, device: str) -> int:
    """The smallest ``value`` of all processes, each of which must call; also the place to wait for one another."""
    if world() == 1:
        return value

    join(device)
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return int(found)
