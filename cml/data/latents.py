"""A data set as a model sees it: integers in memory, made once, turned to float batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

T = TypeVar("T")

FLIPS: dict[str, tuple[int, ...]] = {"none": (), "h": (-1,), "v": (-2,), "hv": (-2, -1), "sign": ()}
"""Name -> axes that are turned round; `sign` turns the sign of sound, and so that of its latents."""


@dataclass(frozen=True)
class Space:
    """Between pictures and what a model of one view reads, both ways, for tasks that answer with a picture.

    Attributes:
        represent: uint8 (C, H, W) -> float32 (c, *grid), as `ModelInputs.batch` gives it.
        picture: float32 (c, *grid) -> uint8 (C, H, W), by the codec's decoder where there is one.
    """

    represent: Callable[[Tensor], Tensor]
    picture: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SoundSpace:
    """Between what a model of one view reads and sound, for tasks that answer with sound.

    Attributes:
        stored: float32 (B, c, n), as `ModelInputs.batch` gives it, to the same, rounded as a bitstream would hold it.
        sound: float32 (B, c, n) and T to float32 (B, C, T), by the codec's decoder where there is one; differentiable.
    """

    stored: Callable[[Tensor], Tensor]
    sound: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of one split.

    Attributes:
        values: (V, N, c, *grid) integers: symbols, or samples of 8 or 16 bits. V is the number of flips that were
            encoded one by one, or 1 where flipping the values is the same thing (pixels, sound).
        scale, offset: (c,), input = values * scale + offset.
        labels: int64 (N,), or any tensor with the samples first; of three or more axes, maps (N, ..., H, W) of the
            whole picture.
        flips: names of the V encoded flips, or of those that may be applied to the values.
        blank: the value that stands for nothing, nearest to an input of zero.
        void: the label of a map where nothing is.
        space, sounds: of the view; None where nobody asks for them.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor
    labels: Tensor
    flips: tuple[str, ...] = ("none",)
    blank: int = 0
    void: int = 255
    space: Space | None = None
    sounds: SoundSpace | None = None

    def __len__(self) -> int:
        return self.values.shape[1]

    def batch(self, indices: Tensor, flips: Tensor | None = None, shift: tuple[int, ...] = ()) -> Tensor:
        """float32 (B, c, *grid), channels last where they are maps.

        Args:
            indices: (B,) of samples.
            flips: (B,) into `self.flips`; None means unflipped.
            shift: positions along each axis by which the batch moves, down and right; what comes in is blank.
        """
        encoded = len(self.values) > 1
        x = self.values[0 if flips is None or not encoded else flips, indices]
        if flips is not None and not encoded:
            for number, name in enumerate(self.flips):
                if FLIPS[name] and (chosen := flips == number).any():
                    x[chosen] = x[chosen].flip(FLIPS[name])
        if any(shift):
            x = F.pad(x, [side for move in reversed(shift) for side in (move, -move)], value=self.blank)
        shape = (1, -1, *[1] * (x.dim() - 2))
        form = torch.channels_last if x.dim() == 4 else torch.preserve_format
        x = x.to(torch.float32, memory_format=form)
        if flips is not None and "sign" in self.flips:
            x[flips == self.flips.index("sign")] *= -1
        return x.mul_(self.scale.view(shape)).add_(self.offset.view(shape))

    def targets(self, indices: Tensor, flips: Tensor | None = None, shift: tuple[int, ...] = ()) -> Tensor:
        """The labels of a batch, (B, ...); maps are flipped and moved as `batch` does it with the values.

        Args:
            indices, flips, shift: as for `batch`; the shift is in positions of the values.
        """
        y = self.labels[indices]
        if y.dim() < 3:
            return y
        for number, name in enumerate(self.flips):
            if flips is not None and FLIPS[name] and (chosen := flips == number).any():
                y[chosen] = y[chosen].flip(FLIPS[name])
        if any(shift):
            cells = (y.shape[-2] // self.values.shape[-2], y.shape[-1] // self.values.shape[-1])
            down, right = (n * cell for n, cell in zip(shift, cells, strict=True))
            y = F.pad(y, (right, -right, down, -down), value=self.void)
        return y


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
