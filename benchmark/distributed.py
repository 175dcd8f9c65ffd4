"""Several processes that train one model together, as ``torchrun`` starts them: who has which share, what is summed.

The first process leads: it plans, evaluates and writes. The others are told which training begins and take their share
of every batch of it. A training's processes hold the same weights throughout: they start from the same ones, and each
takes the same step.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch import distributed as dist

from benchmark.errors import BadInput

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: the leader evaluates between two trainings while they wait."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Join the processes that ``torchrun`` started, or be alone where it started none.

        Raises:
            BadInput: where a GPU is asked for and this process has none of its own.
        """
        size = started_together()
        if size == 1:
            return cls()
        local = int(os.environ["LOCAL_RANK"])
        if device.type == "cuda":
            if local >= torch.cuda.device_count():
                raise BadInput(
                    f"torchrun started process {local} on this machine, which has {torch.cuda.device_count()} GPUs; "
                    "give --nproc-per-node at most that number, or --device cpu"
                )
            torch.cuda.set_device(local)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), size)

    @property
    def leads(self) -> bool:
        """Whether this process plans, evaluates and writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of n consecutive items; the parts differ by at most one in size."""
        return shares(n, self.size)[self.rank]

    def pieces(self, n: int, most: int | None) -> int:
        """Into how many pieces of at most ``most`` items each process cuts its share of n: the same number in all.

        Where statistics are gathered inside a tower, processes that go through it more or less often than the others
        would wait for ever.
        """
        return 1 if most is None else math.ceil(math.ceil(n / self.size) / most)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """Put the parts of all processes together: (own share, ...) -> (n, ...), in order, without gradients."""
        if self.size == 1:
            return part
        sizes = [bounds.stop - bounds.start for bounds in shares(n, self.size)]
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([each[:size] for each, size in zip(parts, sizes, strict=True)])

    def all_of(self, number: int, device: torch.device) -> list[int]:
        """The numbers that the processes bring."""
        return self.gather(torch.tensor([number], device=device), self.size).tolist()

    def leaders(self, number: float, device: torch.device) -> float:
        """The leader's number: what all decide by, where rounding may differ between devices."""
        if self.size == 1:
            return number
        told = torch.tensor(number, dtype=torch.float64, device=device)
        dist.broadcast(told, src=0)
        return float(told)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place; where one has none for a parameter, it counts as 0.

        ``DistributedDataParallel`` would do this while gradients still come in, but it wants one forward pass through
        one module for one backward pass; here both towers run, in pieces, before the loss that joins them.
        """
        if self.size == 1:
            return
        waiting = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(dist.all_reduce(parameter.grad, async_op=True))
        for handle in waiting:
            handle.wait()

    def copy_buffers(self, module: nn.Module) -> None:
        """Give every process the leader's running statistics: on CPUs each has gathered those of its own share."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def say(self, word: str | None) -> str | None:
        """Tell the leader's word to all: what is trained next, or None at the end."""
        if self.size == 1:
            return word
        words = [word]
        dist.broadcast_object_list(words, src=0)
        return words[0]

    def dismiss(self) -> None:
        """Tell the others that this run trains nothing more."""
        with suppress(RuntimeError):  # they are gone already, as after a failure of theirs
            self.say(None)


def shares(n: int, parts: int) -> list[slice]:
    """Cut n consecutive items into parts that differ by at most one in size, the larger ones first."""
    small, larger = divmod(n, parts)
    starts = [part * small + min(part, larger) for part in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(starts)]


def follows() -> bool:
    """Whether ``torchrun`` started this process, and another one leads."""
    return started_together() > 1 and os.environ["RANK"] != "0"


def started_together() -> int:
    """How many processes ``torchrun`` started this one among; 1 where it did not."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
