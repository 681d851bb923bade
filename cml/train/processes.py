"""What processes that train one model together tell each other; for a single process all of it changes nothing.

    each process: its share of the global batch --model--> its numbers --total, mean, gather--> those of the whole batch

Gradients pass: where every process takes its own loss backward, and the parameters' gradients are averaged, as
`DistributedDataParallel` does it, they are those of the mean of the losses.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator(**options: Any) -> "Accelerator":
    """Accelerate's, which finds the device and the other processes; without a GPU or its like, on the CPU.

    That has to be said: where it is not, Accelerate leaves processes on CPUs alone, and each would train by itself.
    """
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.accelerator.is_available(), **options)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if count() > 1 else 0


def total(x: Tensor) -> Tensor:
    """The sum over all processes of what each has, of one shape."""
    return _Sum.apply(x) if count() > 1 else x  # pyright: ignore[reportReturnType]


def mean(x: Tensor) -> Tensor:
    """The mean over all processes of what each has, of one shape."""
    return total(x) / count() if count() > 1 else x


def gather(x: Tensor) -> Tensor:
    """(B, ...) of each process to (processes B, ...), in the order of their ranks."""
    if count() == 1:
        return x
    before, after = (x.new_zeros(n * len(x), *x.shape[1:]) for n in (rank(), count() - rank() - 1))
    return total(torch.cat([before, x, after]))


def own(x: Tensor) -> Tensor:
    """(processes B, ...) to the (B, ...) that are this process's share."""
    size = len(x) // count()
    return x[rank() * size : (rank() + 1) * size]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Sum.apply(grads[0])
