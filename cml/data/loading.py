"""Stored latents to batches on the training device: what lies on disk is what a model reads, no decoder runs.

    .cml files, or tar shards of them --worker: read, check, entropy-decode--> LatentBatch, int8 (B, c, *grid)
      --pinned, to the device as int8--> LatentBatch.to_float: float32 (B, c, *grid)

    data = LatentFolder("latents/train", cml.create_codec("rgb_f8c12"))
    for batch in latent_loader(data, 64, shuffle=True, workers=2, device="cuda"):
        logits = model(batch.to_float("cuda"))

A shard is a plain tar file in the convention of WebDataset: `key.cml`, and `key.cls` with the class in decimals.
"""

import io
import mmap
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

from cml.codecs.base import Codec, Latent
from cml.codecs.bitstream import Container
from cml.codecs.entropy import backend_by_number
from cml.codecs.geometry import grid_shape
from cml.codecs.order0 import Order0
from cml.errors import BitstreamError, CodecError, DataError
from cml.files import read_bytes, write_atomic

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """The symbols of B signals and what turns them into a model's input.

    Attributes:
        symbols: int8 (B, c, *grid); int16 where a container of the batch holds wider ones.
        steps: float32 (B,), the quantization step of each.
        labels: int64 (B,), -1 where there is none.
        mean: float32 (c,), as in `Latent`.
        scale: as in `Latent`.
    """

    symbols: Tensor
    steps: Tensor
    labels: Tensor
    mean: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.symbols)

    def __reduce__(self) -> tuple[Any, ...]:
        return _batch, (*map(portable, (self.symbols, self.steps, self.labels, self.mean)), self.scale)

    def pin_memory(self) -> "LatentBatch":
        """In page-locked memory, from which a copy to the GPU runs beside other work; the `DataLoader` asks for it."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("symbols", "steps", "labels", "mean")}
        return replace(self, **pinned)

    def to(self, device: str | torch.device, non_blocking: bool = True) -> "LatentBatch":
        """On a device, still as integers: a quarter of the bytes of floats."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("symbols", "steps", "labels", "mean")
        }
        return replace(self, **moved)

    def to_float(self, device: str | torch.device | None = None) -> Tensor:
        """float32 (B, c, *grid) on a device (None: where the batch is), normalized there as `Latent.to_float` does."""
        here = self if device is None else self.to(device)
        rest = [1] * (here.symbols.dim() - 2)
        # The operations of Latent.to_float one by one, so that a model sees the same floats to the last bit.
        z = here.symbols.to(torch.float32).mul_(here.steps.view(-1, 1, *rest))
        return z.sub_(here.mean.view(-1, *rest)).div_(here.scale)


def portable(x: Tensor) -> Tensor | np.ndarray:
    """A tensor as it travels fastest from a worker: through shared memory, or, where it is small, through the pipe.

    Shared memory costs a third of a millisecond a tensor, whatever its size; half a megabyte is the break-even.
    """
    return x if x.nbytes > 2**19 else x.cpu().numpy()


def _batch(symbols: Any, steps: Any, labels: Any, mean: Any, scale: float) -> LatentBatch:
    symbols, steps, labels, mean = map(torch.as_tensor, (symbols, steps, labels, mean))
    return LatentBatch(symbols, steps, labels, mean, scale)


class LatentDataset(Dataset[tuple[Latent, int]], ABC):
    """Stored containers of one codec and their labels; safe with forked and spawned workers.

    `data[i]` is a `Latent` and its label; `data.__getitems__(indices)`, which a `DataLoader` calls, a `LatentBatch`.

    Attributes:
        labels: int64 (N,), indices into `classes`; -1 where there is none.
        classes: names in the order of the labels; empty where they are not known.

    Raises:
        CodecError: the codec has no latents.
        BitstreamError: a container is damaged or another codec's; the message names the file.
        DataError: there is nothing to load, or a batch would hold latents of different shapes.
    """

    def __init__(self, codec: Codec, labels: np.ndarray, classes: tuple[str, ...]):
        spec = codec.spec
        if spec.latent_channels is None or spec.patch is None:
            raise CodecError(f"{spec.name} has no latents to load; take a codec that has (cml list).")
        self.labels, self.classes = labels, classes
        self._name, self._codec_id, self._ndim, self._patch = spec.name, spec.codec_id, spec.ndim, spec.patch
        # The first container brings the statistics, and tells at once that the wrong codec was given.
        try:
            self._like = codec.unpack(self._read(0))
        except BitstreamError as error:
            raise BitstreamError(f"{self.source(0)}: {error}") from error
        self._channels, self._mean, self._scale = len(self._like.symbols), self._like.mean, self._like.scale

    @abstractmethod
    def _read(self, index: int) -> bytes:
        """The bytes of one container."""

    @abstractmethod
    def source(self, index: int) -> str:
        """Where an item lies, for messages."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Latent, int]:
        index = range(len(self))[index]  # negative ones count from the end, and past the end is an IndexError
        container = self._container(index)
        symbols = torch.from_numpy(self._decode(container, index))
        latent = replace(self._like, symbols=symbols, original_shape=container.shape, step=container.parameter)
        return latent, int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> LatentBatch:
        containers = [self._container(index) for index in indices]
        return LatentBatch(
            symbols=torch.from_numpy(self._decode_all(containers, indices)),
            steps=torch.tensor([container.parameter for container in containers]),
            labels=torch.from_numpy(self.labels[list(indices)]),
            mean=self._mean,
            scale=self._scale,
        )

    def _decode_all(self, containers: Sequence[Container], indices: Sequence[int]) -> np.ndarray:
        shape = self._common_shape(containers, indices)
        wide = any(container.wide for container in containers)
        dtype = np.dtype(np.int16 if wide else np.int8)
        coder = backend_by_number(containers[0].backend)
        if isinstance(coder, Order0) and len({(c.backend, c.wide) for c in containers}) == 1:
            with suppress(BitstreamError):  # one by one below, they say which
                return coder.decode_many([container.payload for container in containers], shape, dtype)
        symbols = np.empty((len(containers), *shape), dtype)
        for row, container, index in zip(symbols, containers, indices, strict=True):
            row[...] = self._decode(container, index)
        return symbols

    def _container(self, index: int) -> Container:
        try:
            container = Container.unpack(self._read(index))
        except BitstreamError as error:
            raise BitstreamError(f"{self.source(index)}: {error}") from error
        if container.codec_id != self._codec_id or len(container.shape) != self._ndim + 1:
            raise BitstreamError(
                f"{self.source(index)} was written by codec {container.codec_id}, not by {self._name} "
                f"({self._codec_id}); a data set holds one codec's containers."
            )
        if container.channels != self._channels:
            raise DataError(
                f"{self.source(index)} holds {container.channels} latent channels and {self.source(0)} "
                f"{self._channels}; encode the signals with one setting of `channels`."
            )
        return container

    def _shape(self, container: Container) -> tuple[int, ...]:
        return (container.channels, *grid_shape(container.shape[1:], self._patch))

    def _common_shape(self, containers: Sequence[Container], indices: Sequence[int]) -> tuple[int, ...]:
        seen: dict[tuple[int, ...], int] = {}
        for container, index in zip(containers, indices, strict=True):
            seen.setdefault(container.shape, index)
        shapes = {grid_shape(shape[1:], self._patch): index for shape, index in seen.items()}
        if len(shapes) > 1:
            (grid, one), (other_grid, other) = list(shapes.items())[:2]
            raise DataError(
                f"A batch needs latents of one size: {self.source(one)} has a grid of {_times(grid)}, "
                f"{self.source(other)} of {_times(other_grid)}; encode the signals at one size."
            )
        return self._shape(containers[0])

    def _decode(self, container: Container, index: int) -> np.ndarray:
        dtype = np.dtype(np.int16 if container.wide else np.int8)
        try:
            return backend_by_number(container.backend).decode(container.payload, self._shape(container), dtype)
        except BitstreamError as error:
            raise BitstreamError(f"{self.source(index)}: {error}") from error


def _times(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))


class LatentFolder(LatentDataset):
    """The `.cml` files below a folder, as `cml encode` writes them: one folder a class, or none and no labels.

    Args:
        root: the folder.
        codec: what wrote the containers.
    """

    def __init__(self, root: str | Path, codec: Codec):
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"There is no folder {root}.")
        loose = sorted(root.glob("*.cml"))
        classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."))
        files = [(path, label) for label, name in enumerate(classes) for path in sorted((root / name).rglob("*.cml"))]
        if loose and files:
            raise DataError(f"{root} holds .cml files both loose and in class folders; move the loose ones.")
        if loose:
            files, classes = [(path, UNLABELLED) for path in loose], ()
        if not files:
            raise DataError(f"{root} holds no .cml files; `cml encode FOLDER -o {root} -c CODEC` makes them.")
        self._paths = [str(path) for path, _ in files]
        super().__init__(codec, np.array([label for _, label in files], np.int64), classes)

    def _read(self, index: int) -> bytes:
        return read_bytes(self._paths[index])

    def source(self, index: int) -> str:
        return self._paths[index]


class LatentShards(LatentDataset):
    """The `.cml` members of tar files, indexed once and then read through a memory map.

    Args:
        paths: the shards.
        codec: what wrote the containers.
        classes: names in the order of the labels, for people.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], codec: Codec, classes: Sequence[str] = ()):
        self._paths = [str(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
        self._maps: dict[int, mmap.mmap] = {}
        members = [(shard, *member) for shard, path in enumerate(self._paths) for member in _index(path)]
        if not members:
            raise DataError(f"The shards ({', '.join(self._paths) or 'none'}) hold no .cml members.")
        shard, keys, offset, size, labels = zip(*members, strict=True)
        self._keys = keys
        self._places = np.array([shard, offset, size], np.int64).T.copy()
        super().__init__(codec, np.array(labels, np.int64), tuple(classes))

    def _read(self, index: int) -> bytes:
        shard, offset, size = self._places[index].tolist()
        if shard not in self._maps:
            with open(self._paths[shard], "rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[shard][offset : offset + size]

    def source(self, index: int) -> str:
        return f"{self._paths[self._places[index, 0]]}, member {self._keys[index]}.cml"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a spawned worker maps the shards anew


def _index(path: str) -> list[tuple[str, int, int, int]]:
    """(key, offset, bytes, label) of each container of a tar file, in its order."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, kind = _split(member.name)
                if kind == "cml" and member.isreg():
                    places[key] = (member.offset_data, member.size)
                elif kind == "cls" and (text := tar.extractfile(member)) is not None:
                    labels[key] = int(text.read())
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"{path} is not a whole, uncompressed tar file of .cml and .cls members: {error}.") from error
    if labels and (bare := places.keys() - labels.keys()):
        raise DataError(f"{path}: {min(bare)}.cml has no .cls beside it, others have; label all or none.")
    return [(key, *place, labels.get(key, UNLABELLED)) for key, place in places.items()]


def _split(name: str) -> tuple[str, str]:
    """Key and extension by WebDataset's rule: at the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension


def write_shard(path: str | Path, items: Iterable[tuple[str, bytes, int | None]]) -> None:
    """Write a tar shard, whole or not at all; it is built in memory, so keep it to some hundreds of megabytes.

    Args:
        path: the tar file.
        items: (key, container, label); the key without a dot, the label None for none.
    """
    buffer, keys = io.BytesIO(), set()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, blob, label in items:
            if _split(key) != (key, "") or key[-1:] in ("", "/") or key in keys:
                raise DataError(f"A shard's keys are unique and have no dot; {key!r} is not such a key.")
            keys.add(key)
            files = {"cml": blob} if label is None else {"cml": blob, "cls": str(label).encode()}
            for extension, data in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")  # its time stays 0: equal items, equal bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    write_atomic(path, buffer.getvalue())


def latent_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool = False,
    workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
    drop_last: bool = False,
) -> DataLoader[LatentBatch]:
    """A `DataLoader` of `LatentBatch`es on the CPU, pinned where the device is a GPU.

    Args:
        dataset: a `LatentDataset`, or a `torch.utils.data.Subset` of one.
        batch_size: signals a batch.
        shuffle: a new order each epoch; which ones follow each other hangs on the seed alone, not on the workers.
        workers: processes that read and entropy-decode, of one torch thread each; they live as long as the loader.
        device: where the batches will go.
        seed: of the order.
        drop_last: leave out a last batch that is smaller.
    """
    size = len(dataset)  # pyright: ignore[reportArgumentType]
    order = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(range(size), generator=order) if shuffle else SequentialSampler(range(size))
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=torch.device(device).type == "cuda",
        drop_last=drop_last,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(seed),
    )


def _as_is(batch: Any) -> Any:
    return batch
