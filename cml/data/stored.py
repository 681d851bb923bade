"""Stored containers, one by one or as batches: `.cml` files in folders, and tar shards of them.

A shard is a plain tar file in the convention of WebDataset: `key.cml`, and `key.cls` with the class in decimals.
"""

import io
import mmap
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cml.codecs.base import Codec, Latent
from cml.data.batches import UNLABELLED, LatentBatch, LatentFormat, collate
from cml.errors import DataError
from cml.files import read_bytes, write_atomic


class StoredLatents(Dataset[tuple[Latent, int]], ABC):
    """Stored containers of one codec and their labels; safe with forked and spawned workers.

    `data[i]` is a `Latent` and its label; `data.__getitems__(indices)`, which a `DataLoader` calls, a `LatentBatch`.

    Attributes:
        classes: names in the order of the labels; empty where they are not known.

    Raises:
        CodecError: the codec has no latents.
        BitstreamError: a container is damaged or another codec's; the message names the file.
        DataError: there is nothing to load, or a batch would hold latents of different grids.
    """

    form: LatentFormat
    classes: tuple[str, ...]

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """int64 (N,), indices into `classes`; -1 where there is none."""

    @abstractmethod
    def _read(self, index: int) -> bytes:
        """The bytes of one container."""

    @abstractmethod
    def source(self, index: int) -> str:
        """Where an item lies, for messages."""

    def load(self) -> None:
        """Bring into memory what forked workers shall share; nothing here."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Latent, int]:
        index = range(len(self))[index]  # negative ones count from the end, and past the end is an IndexError
        return self.form.latent(self._read(index), self.source, index), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> LatentBatch:
        return self.batch(indices)

    def batch(self, indices: Sequence[int], pad: bool = False) -> LatentBatch:
        """Some items as a batch; `pad` puts zeros after the end of latents with smaller grids."""
        blobs = [self._read(index) for index in indices]
        return collate(self.form, blobs, self.labels[list(indices)], lambda row: self.source(indices[row]), pad)

    def grids(self) -> np.ndarray:
        """int64 (N, D), the latent grid of each item; reads every container."""
        shapes = [self.form.open(self._read(i), self.source, i).shape for i in range(len(self))]
        return np.array([self.form.grid(shape) for shape in shapes], np.int64)


class LatentFolder(StoredLatents):
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
        self._labels, self.classes = np.array([label for _, label in files], np.int64), classes
        self.form = LatentFormat.of_codec(codec, self._read(0), self.source(0))

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def _read(self, index: int) -> bytes:
        return read_bytes(self._paths[index])

    def source(self, index: int) -> str:
        return self._paths[index]


class LatentShards(StoredLatents):
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
        self._labels, self.classes = np.array(labels, np.int64), tuple(classes)
        self.form = LatentFormat.of_codec(codec, self._read(0), self.source(0))

    @property
    def labels(self) -> np.ndarray:
        return self._labels

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
