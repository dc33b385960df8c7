"""Several processes that train one network together, as ``torchrun`` starts them.

``torchrun`` passes each process its rank in the environment. Each takes a share of every batch.
Only the first process reads and writes the run folder, logs and validates.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.log import LOG

if TYPE_CHECKING:
    import torch
    from torch import nn

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(hours=4)
"""Longest wait of a process for another: while the first one validates, the others wait."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The place of this process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: its number on this machine, which selects its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def device(self, device: str) -> str:
        """Return this process's device; ``cuda`` means the device of its number on this machine.

        Raises:
            ConfigError: one device is given for several processes, or it does not exist.
        """
        name = device_name(device)
        if self.alone or name == "cpu":
            return name
        if device.strip().lower() != "cuda":
            msg = f"device={device}: one device for {self.size} processes; give device=cuda or cpu"
            raise ConfigError(msg)
        return device_name(f"cuda:{self.local_rank}")

    def share(self, batch: list[int]) -> list[int]:
        """Return this process's part of a batch; the number of processes divides the batch size."""
        return batch[self.rank :: self.size]

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes."""
        if self.alone:
            return tensor
        import torch.distributed as dist

        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, network: nn.Module) -> None:
        """Copy the first process's buffers (running statistics) to all processes."""
        if self.alone:
            return
        import torch.distributed as dist

        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)

    def from_first(self, value: Any) -> Any:
        """Return the first process's value in every process, after waiting for it."""
        if self.alone:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


ALONE = ProcessGroup()
"""A group of one process."""


def group_of_environment(environment: Mapping[str, str] | None = None) -> ProcessGroup:
    """Read this process's rank from the variables of ``torchrun``; without them it is alone.

    Raises:
        ConfigError: the variables are not valid.
    """
    found = os.environ if environment is None else environment
    if any(name not in found for name in _VARIABLES):
        return ALONE
    try:
        rank, local, size = (int(found[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    except ValueError as error:
        raise ConfigError(f"RANK, LOCAL_RANK or WORLD_SIZE is not a number ({error})") from error
    if not (0 <= rank < size and local >= 0):
        raise ConfigError(f"RANK={rank} LOCAL_RANK={local} WORLD_SIZE={size}: out of range")
    return ProcessGroup(rank, size, local)


@contextmanager
def joined_processes(group: ProcessGroup, device: str) -> Iterator[None]:
    """Let the processes wait for each other, work together, and leave the group.

    Args:
        group: this process's place in the group.
        device: its device: gloo on the CPU, NCCL on CUDA.
    """
    if group.alone:
        yield
        return
    import torch
    import torch.distributed as dist

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield
    except BaseException:
        if not cuda:  # NCCL would wait for processes that may not come; torchrun ends them
            dist.destroy_process_group()
        raise
    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def first_speaks(group: ProcessGroup) -> Iterator[None]:
    """Silence everything but errors in processes other than the first."""
    level = LOG.level
    if not group.first:
        LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(level)
