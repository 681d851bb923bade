"""Containers to batches: what all of a data set's containers share, and the integers of a batch of them.

containers --LatentFormat.open: check--> --collate: entropy-decode, pad--> LatentBatch, int8 (B, c, *grid)
  --to the device as int8--> LatentBatch.to_float: float32 (B, c, *grid)
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import Codec, Latent
from cml.codecs.bitstream import Container
from cml.codecs.entropy import backend_by_number
from cml.codecs.geometry import grid_shape
from cml.codecs.order0 import Order0
from cml.errors import BitstreamError, CodecError, DataError

UNLABELLED = -1
_TENSORS = ("symbols", "steps", "labels", "mean", "grids")


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """The symbols of B signals and what turns them into a model's input.

    Attributes:
        symbols: int8 (B, c, *grid); int16 where a container of the batch holds wider ones. Where signals differ in
            size, the largest grid along each axis, with zeros after the end of a smaller signal.
        steps: float32 (B,), the quantization step of each.
        labels: int64 (B,), -1 where there is none.
        mean: float32 (c,), as in `Latent`.
        scale: as in `Latent`.
        grids: int64 (B, D), the grid of each signal; None where all fill `symbols`.
    """

    symbols: Tensor
    steps: Tensor
    labels: Tensor
    mean: Tensor
    scale: float
    grids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.symbols)

    def __reduce__(self) -> tuple[Any, ...]:
        return _batch, (self.scale, {name: portable(tensor) for name, tensor in self._tensors()})

    def _tensors(self) -> Iterable[tuple[str, Tensor]]:
        return ((name, tensor) for name in _TENSORS if (tensor := getattr(self, name)) is not None)

    def pin_memory(self) -> "LatentBatch":
        """In page-locked memory, from which a copy to the GPU runs beside other work; the `DataLoader` asks for it."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors()})

    def to(self, device: str | torch.device, non_blocking: bool = True) -> "LatentBatch":
        """On a device, still as integers: a quarter of the bytes of floats."""
        return replace(self, **{name: x.to(device, non_blocking=non_blocking) for name, x in self._tensors()})

    def mask(self) -> Tensor:
        """bool (B, *grid): True where a signal has latents, False in what is padded."""
        grid = self.symbols.shape[2:]
        mask = torch.ones((len(self), *grid), dtype=torch.bool, device=self.symbols.device)
        for axis, size in enumerate(grid if self.grids is not None else ()):
            inside = torch.arange(size, device=mask.device) < self.grids[:, axis, None]  # pyright: ignore[reportOptionalSubscript]
            mask &= inside.view(-1, *[size if other == axis else 1 for other in range(len(grid))])
        return mask

    def to_float(self, device: str | torch.device | None = None) -> Tensor:
        """float32 (B, c, *grid) on a device (None: where the batch is), normalized there as `Latent.to_float` does.

        What is padded is 0 afterwards: the mean of the latents, and what a convolution pads with at its borders.
        """
        here = self if device is None else self.to(device)
        rest = [1] * (here.symbols.dim() - 2)
        # The operations of Latent.to_float one by one, so that a model sees the same floats to the last bit.
        z = here.symbols.to(torch.float32).mul_(here.steps.view(-1, 1, *rest))
        z = z.sub_(here.mean.view(-1, *rest)).div_(here.scale)
        return z if here.grids is None else z.masked_fill_(~here.mask().unsqueeze(1), 0)


def portable(x: Tensor) -> Tensor | np.ndarray:
    """A tensor as it travels fastest from a worker: through shared memory, or, where it is small, through the pipe.

    Shared memory costs a third of a millisecond a tensor, whatever its size; half a megabyte is the break-even.
    """
    return x if x.nbytes > 2**19 else x.cpu().numpy()


def _batch(scale: float, tensors: dict[str, Any]) -> LatentBatch:
    return LatentBatch(scale=scale, **{name: torch.as_tensor(x) for name, x in tensors.items()})


@dataclass(frozen=True, eq=False)
class LatentFormat:
    """What all containers of a data set share.

    Attributes:
        codec: the operating point, for messages.
        cell: samples of each axis behind one position of the latents.
        like: any latent of the codec, for its id, its statistics, and c, which is what every container holds.
        origin: where that is written, for messages.
    """

    codec: str
    cell: tuple[int, ...]
    like: Latent
    origin: str

    @classmethod
    def of_codec(cls, codec: Codec, blob: bytes, source: str) -> "LatentFormat":
        """As the first container has it, which also tells at once that the wrong codec was given.

        Raises:
            CodecError: the codec has no latents.
            BitstreamError: the container is damaged or another codec's.
        """
        spec = codec.spec
        if spec.latent_channels is None or spec.patch is None:
            raise CodecError(f"{spec.name} has no latents to load; take a codec that has (cml list).")
        try:
            return cls(spec.name, spec.cell, codec.unpack(blob), source)
        except BitstreamError as error:
            raise BitstreamError(f"{source}: {error}") from error

    @cached_property
    def channels(self) -> int:
        """c."""
        return len(self.like.mean)

    @cached_property
    def scale(self) -> float:
        """As in `Latent`."""
        return self.like.scale

    def open(self, blob: bytes, source: Callable[[int], str], index: int) -> Container:
        """A container, checked; `source` of the index names it in messages.

        Raises:
            BitstreamError: it is damaged or another codec's.
            DataError: it holds another number of latent channels.
        """
        try:
            container = Container.unpack(blob)
        except BitstreamError as error:
            raise BitstreamError(f"{source(index)}: {error}") from error
        expected = self.like.codec_id
        if container.codec_id != expected or len(container.shape) != len(self.cell) + 1:
            raise BitstreamError(
                f"{source(index)} was written by codec {container.codec_id}, not by {self.codec} ({expected}); "
                "a data set holds one codec's containers."
            )
        if container.channels != self.channels:
            raise DataError(
                f"{source(index)} holds {container.channels} latent channels and {self.origin} {self.channels}; encode "
                "the signals with one setting of `channels`."
            )
        return container

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The latent grid of a signal of a shape (C, *spatial)."""
        return _grid(shape, self.cell)

    def decode(self, container: Container, source: Callable[[int], str], index: int) -> np.ndarray:
        """The symbols of an opened container, (c, *grid)."""
        dtype = np.dtype(np.int16 if container.wide else np.int8)
        shape = (container.channels, *self.grid(container.shape))
        try:
            return backend_by_number(container.backend).decode(container.payload, shape, dtype)
        except BitstreamError as error:
            raise BitstreamError(f"{source(index)}: {error}") from error

    def latent(self, blob: bytes, source: Callable[[int], str], index: int) -> Latent:
        """A container as `Codec.unpack` gives it."""
        container = self.open(blob, source, index)
        symbols = torch.from_numpy(self.decode(container, source, index))
        return replace(self.like, symbols=symbols, original_shape=container.shape, step=container.parameter)


@lru_cache(4096)
def _grid(shape: tuple[int, ...], cell: tuple[int, ...]) -> tuple[int, ...]:
    return grid_shape(shape[1:], cell)


def collate(
    form: LatentFormat, blobs: Sequence[bytes], labels: np.ndarray, source: Callable[[int], str], pad: bool = False
) -> LatentBatch:
    """Containers to a batch.

    Args:
        form: what they share.
        blobs: B containers.
        labels: int64 (B,).
        source: names the container of a row in messages.
        pad: take latents of different grids, and put zeros after the end of smaller ones along each axis.

    Raises:
        BitstreamError: a container is damaged or another codec's; the message names it.
        DataError: the grids differ and `pad` is False.
    """
    containers = [form.open(blob, source, row) for row, blob in enumerate(blobs)]
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, container in enumerate(containers):
        rows.setdefault(form.grid(container.shape), []).append(row)
    grids = None
    if len(rows) == 1:
        symbols = _decode(form, containers, source)
    elif pad:
        grids = torch.tensor([form.grid(container.shape) for container in containers])
        dtype = np.int16 if any(container.wide for container in containers) else np.int8
        symbols = np.zeros((len(blobs), form.channels, *grids.amax(0).tolist()), dtype)
        for grid, chosen in rows.items():
            part = _decode(form, [containers[row] for row in chosen], lambda row, at=chosen: source(at[row]))
            symbols[(chosen, slice(None), *map(slice, grid))] = part
    else:
        (grid, (one, *_)), (other_grid, (other, *_)) = list(rows.items())[:2]
        raise DataError(
            f"A batch needs latents of one size: {source(one)} has a grid of {_times(grid)}, {source(other)} of "
            f'{_times(other_grid)}; encode the signals at one size, or load them with sizes="pad" or "bucket".'
        )
    return LatentBatch(
        symbols=torch.from_numpy(symbols),
        steps=torch.tensor([container.parameter for container in containers]),
        labels=torch.from_numpy(labels),
        mean=form.like.mean,
        scale=form.scale,
        grids=grids,
    )


def _decode(form: LatentFormat, containers: Sequence[Container], source: Callable[[int], str]) -> np.ndarray:
    """The symbols of containers of one grid, (B, c, *grid)."""
    shape = (form.channels, *form.grid(containers[0].shape))
    dtype = np.dtype(np.int16 if any(container.wide for container in containers) else np.int8)
    coder = backend_by_number(containers[0].backend)
    if isinstance(coder, Order0) and len({(c.backend, c.wide) for c in containers}) == 1:
        with suppress(BitstreamError):  # one by one below, they say which
            return coder.decode_many([container.payload for container in containers], shape, dtype)
    symbols = np.empty((len(containers), *shape), dtype)
    for row, container in enumerate(containers):
        symbols[row] = form.decode(container, source, row)
    return symbols


def _times(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))
