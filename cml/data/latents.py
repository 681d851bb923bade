"""A data set as a model sees it: small integers in memory, made once, turned to float batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

FLIPS: dict[str, tuple[int, ...]] = {"none": (), "h": (-1,), "v": (-2,), "hv": (-2, -1)}


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of one split.

    Attributes:
        values: (V, N, c, *grid) integers: symbols or 8-bit samples. V is the number of flips that were encoded one by
            one, or 1 where flipping the values is the same thing (pixels).
        scale, offset: (c,), input = values * scale + offset.
        labels: int64 (N,).
        flips: names of the V encoded flips, or of those that may be applied to the values.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor
    labels: Tensor
    flips: tuple[str, ...] = ("none",)

    def __len__(self) -> int:
        return self.values.shape[1]

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """float32 (B, c, *grid), channels last; `flips` (B,) indexes `self.flips`, None means unflipped."""
        flips = torch.zeros_like(indices) if flips is None else flips
        encoded = len(self.values) > 1
        x = self.values[flips if encoded else torch.zeros_like(flips), indices]
        shape = (1, -1, *[1] * (x.dim() - 2))
        x = x.float() * self.scale.view(shape) + self.offset.view(shape)
        if not encoded:
            for number, name in enumerate(self.flips):
                if FLIPS[name] and (chosen := flips == number).any():
                    x[chosen] = x[chosen].flip(FLIPS[name])
        return x.contiguous(memory_format=torch.channels_last)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread a Python thread, for work that is spread over items rather than inside operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_items(function: Callable[[int], T], count: int, on_item: Callable[[], None] = lambda: None) -> list[T]:
    """function(0) ... function(count - 1), in order, over as many threads as torch uses.

    Codecs release the interpreter lock while they work, so threads are enough and nothing is copied.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, single_threaded():
        out = []
        for value in pool.map(function, range(count)):
            out.append(value)
            on_item()
        return out


def stack(values: Sequence[Tensor]) -> Tensor:
    """Stack integer tensors of one shape, widened to the widest type among them."""
    widest = max((value.dtype for value in values), key=lambda dtype: dtype.itemsize)
    return torch.stack([value.to(widest) for value in values])
