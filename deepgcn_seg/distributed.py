"""Several processes that train one model, started by torchrun or SLURM, or this process alone.

Each process holds the whole model and a share of every batch. Gradients, batch statistics, losses and confusion
matrices are summed over all processes. The rest of the package does not know how they were started.
"""

import os
import socket
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError

# A process gives up if it waits longer than this for another one, which may be preparing the data.
TIMEOUT = timedelta(minutes=10)
# Most processes to start on this machine, which has fewer GPUs than this.
MAX_DEVICES = 64


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: number of this process, 0..size-1. size: number of processes. local: number of this one on its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Sum values over all processes, in place, and return them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share(self, value: Any) -> Any:
        """Return the first process's value to every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients over all processes.

        There is one sum after the backward pass, not one for each layer during it. It works with recomputation,
        reversible blocks and accumulation alike, and costs little as the models are small (ResGCN-28: 14 MB).
        """
        if self.size == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        used = gradients[0].new_tensor([p.grad is not None for p in parameters])
        flat = self.sum(torch.cat([used, *(gradient.flatten() for gradient in gradients)])) / self.size
        used, *parts = flat.split([len(parameters), *(gradient.numel() for gradient in gradients)])
        # What no process used keeps None: from a gradient of 0, an optimiser's momentum and weight decay would move it.
        for parameter, part, share in zip(parameters, parts, used.tolist()):
            parameter.grad = part.view_as(parameter) if share else None

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of the first, such as running statistics that are not synchronised."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def declared() -> World:
    """Return the processes that the environment declares, with the variables of torchrun or of a SLURM step."""
    environ = os.environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return World(int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_RANK", 0)))
    # A batch script runs outside of a step, as one process, whatever number of tasks its job has.
    # In the step of an interactive shell (salloc), too, SLURM_NTASKS is that of the job.
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and environ.get("SLURM_STEP_ID", "").isdigit():
        return World(*(int(environ[name]) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")))
    return World()


def join(device: torch.device) -> World:
    """Connect this process with the others. A second call does nothing more.

    Raises:
        UserError: they cannot be reached.
    """
    world = declared()
    if world.size == 1 or dist.is_initialized():
        return world
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_slurm_host()
        # A port that all nodes of a job agree on, and that differs between jobs.
        os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"process {world.rank} of {world.size} cannot join the others at {where}: {error}") from None
    return world


def leave() -> bool:
    """Close the connection to other processes at the end of a program; return whether there was one."""
    if not dist.is_initialized():
        return False
    dist.destroy_process_group()
    return True


def _first_slurm_host() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", ""))
    try:
        return subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return socket.gethostname()


class SummedOverAll(torch.autograd.Function):
    """The sum over all processes, in the forward and the backward pass."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        """Return the sum of values."""
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """Return the sum of gradients, because the loss of each process depends on the values of all."""
        return SummedOverAll.apply(gradient)
