"""Where the samples of a latent data set come from: listed first, then read by index, in any process.

    PATH                a folder: flat, or one folder a class, or train, test, val folders of either
    elpv, folder:PATH   the data sets of `cml compare`, with their train and test splits
    hf:NAME[,CONFIG]    a data set of the Hugging Face hub, or a folder of its parquet files
    wds:PATTERN         tar files of WebDataset, "shards/train-{000..146}.tar" or "shards/*.tar"

What is taken follows the codec: sound for one spatial axis, pictures for two, and for three the volumes, cubes and
videos of `cml.data.signal_files`. Another source is a class and a line in `SOURCES`, or an entry point `cml.sources`.
"""

import hashlib
import io
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cml.codecs.conventional import UNREADABLE, open_picture
from cml.data.datasets import DATASETS
from cml.data.signals import IMAGE_SUFFIXES, read_image
from cml.data.sound import SOUND_SUFFIXES, read_sound
from cml.data.video import VIDEO_SUFFIXES
from cml.errors import DataError
from cml.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa

    from cml.data.samples import SignalFile

SOURCES = Registry(
    "source",
    {
        "hf": "cml.data.source_hf:HubSource",
        "wds": "cml.data.source_wds:TarSource",
    },
)
_THREE_AXES = frozenset({".npy", ".npz", ".nii", ".gz", ".nii.gz", ".mat", ".hdr"})  # .gz is the end of .nii.gz
SUFFIXES = {1: SOUND_SUFFIXES, 2: IMAGE_SUFFIXES, 3: _THREE_AXES | VIDEO_SUFFIXES}
KINDS = {1: "sound", 2: "pictures", 3: "volumes, cubes or videos"}
_NUMPY, _GZIP, _ZIP, _MATLAB = b"\x93NUMPY", b"\x1f\x8b", b"PK", b"MATLAB"
_LOOKED_AT = 64  # samples of a split whose content enters the revision, or whose headers choose a default codec
_HEAD = 1 << 16  # bytes of each
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")


@dataclass(frozen=True)
class Sample:
    """One signal as its source has it.

    Attributes:
        signal: (C, *spatial), uint8, uint16, or float32 in [-1, 1].
        source_bytes: size of the file, or of what stands for it.
        sampling_rate: of sound, in hertz; None for the rest.
        facts: of a signal of three axes, what its file says about it, which travels in its container.
    """

    signal: Tensor
    source_bytes: int
    sampling_rate: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Source(ABC):
    """Samples that can be encoded: listed at once, read one by one, from any thread or process.

        listing: ids, labels, metadata (no sample is read)  -->  read(split, index): one signal

    A source pickles, and what unpickles reads the same samples. Each has `raw`; the rest is here.

    Attributes:
        name: what it is called in the manifest.
        ndim: spatial axes of its signals.
        splits: name -> a pyarrow table of one row a sample, in order: `id` (string, unique), `label` (int64, where
            there are labels), and further columns, which are metadata.
        classes: names in the order of the labels; None where nobody names them.
        revision: fingerprint of ids, labels, metadata and sizes of all samples, and of the content of up to 64 in each
            split, spread evenly.
    """

    revision: str

    def __init__(
        self,
        name: str,
        ndim: int,
        splits: "Mapping[str, pa.Table]",
        classes: tuple[str, ...] | None,
        sizes: Mapping[str, Sequence[int] | np.ndarray],
    ):
        self.name, self.ndim, self.splits, self.classes = name, ndim, dict(splits), classes
        if not any(len(table) for table in self.splits.values()):
            raise DataError(f"{name} holds no {KINDS[ndim]} ({', '.join(sorted(SUFFIXES[ndim]))}).")
        self._check_ids()
        self.revision = self._fingerprint(sizes)

    @abstractmethod
    def raw(self, split: str, index: int) -> Path | bytes:
        """The file of a sample, or its bytes; `DataError` where there is none."""

    def __len__(self) -> int:
        return sum(len(table) for table in self.splits.values())

    def identify(self, split: str, index: int) -> str:
        """The id of a sample."""
        return self.splits[split]["id"][index].as_py()

    def read(self, split: str, index: int) -> Sample:
        """One signal, with the channels that it has; `DataError` names it where it cannot be read."""
        raw = self.raw(split, index)
        name = self.identify(split, index) if isinstance(raw, bytes) else str(raw)
        size = len(raw) if isinstance(raw, bytes) else raw.stat().st_size
        if self.ndim == 3:
            read = _volume(raw, name)
            return Sample(read.samples, size, facts=read.facts)
        signal, rate = _decode(raw, self.ndim, name)
        return Sample(signal, size, rate)

    def channels(self) -> int:
        """Of its pictures: 1 if up to 64 of a split, spread evenly, are all grey, else 3."""
        modes = {mode for split, index in self._some() if (mode := _mode(self._peek(split, index)))}
        return 1 if modes and modes <= set(_GREY) else 3

    def _some(self) -> Iterator[tuple[str, int]]:
        for split, table in self.splits.items():
            count = min(_LOOKED_AT, len(table))
            yield from ((split, number * len(table) // count) for number in range(count))

    def _peek(self, split: str, index: int) -> Path | bytes:
        try:
            return self.raw(split, index)
        except DataError:
            return b""  # it will be told when it is encoded

    def _check_ids(self) -> None:
        import pyarrow as pa

        ids = pa.chunked_array([chunk for table in self.splits.values() for chunk in table["id"].chunks], pa.string())
        if len(ids.unique()) < len(ids):
            doubled = next(entry["values"] for entry in ids.value_counts().to_pylist() if entry["counts"] > 1)
            raise DataError(f"{self.name} has two samples with the id {doubled!r}: give each a name of its own.")

    def _fingerprint(self, sizes: Mapping[str, Sequence[int] | np.ndarray]) -> str:
        import pyarrow as pa

        digest = hashlib.sha256(repr((self.ndim, self.classes)).encode())
        for split, table in self.splits.items():
            digest.update(repr((split, table.column_names)).encode())
            whole = table.append_column("", pa.array(sizes[split], pa.int64()))
            for batch in whole.to_batches(max_chunksize=4096):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    digest.update(repr(row).encode())
        for split, index in self._some():
            raw = self._peek(split, index)
            digest.update(raw[:_HEAD] if isinstance(raw, bytes) else _head(raw))
        return digest.hexdigest()[:12]


def listing(
    ids: Sequence[str], labels: Sequence[int] | np.ndarray | None = None, metadata: Mapping[str, Any] | None = None
) -> "pa.Table":
    """The table of a split; metadata columns whose names cml keeps for itself get a trailing underscore."""
    import pyarrow as pa

    try:
        columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
    except UnicodeEncodeError as error:
        raise DataError(f"The name {error.object!a} is not valid UTF-8: rename the file.") from error
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    for name, values in (metadata or {}).items():
        columns[_free(name, columns)] = values
    return pa.table(columns)


_RESERVED = ("id", "latent", "label", "shape", "source_shape", "sampling_rate")


def _free(name: str, taken: Mapping[str, Any]) -> str:
    return _free(f"{name}_", taken) if name in taken or name in _RESERVED else name


def open_source(text: str | Path, ndim: int = 2) -> Source:
    """The source that a text names.

    Args:
        text: as in the docstring of this module.
        ndim: spatial axes of the signals that are wanted.

    Raises:
        DataError: there is no such source, it holds nothing of that kind, or two samples share an id.
    """
    from cml.data.source_folder import FolderSource, SetSource

    text = str(text)
    kind, colon, argument = text.partition(":")
    if colon and kind in SOURCES:
        return SOURCES.get(kind)(argument, ndim)
    if kind in DATASETS:
        return SetSource(text, ndim)
    if os.path.isdir(os.path.expanduser(text)):
        return FolderSource(text, ndim)
    known = [f"{name}:..." for name in SOURCES.names()] + DATASETS.names()
    raise DataError(f"There is no folder {text}, and no source of that name: give a folder, or {', '.join(known)}.")


def _decode(raw: Path | bytes, ndim: int, name: str) -> tuple[Tensor, int | None]:
    """A signal and the sampling rate of sound, from a file or its bytes."""
    if ndim == 1:
        sound = read_sound(raw, name=name)
        return sound.samples, sound.rate
    return (_picture(raw, name) if isinstance(raw, bytes) else read_image(raw)), None


def _picture(data: bytes, name: str) -> Tensor:
    # Through a file, since `read_image` takes paths: all that it knows of EXIF, palettes and profiles holds here, too.
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return read_image(file.name)
        except DataError as error:
            raise DataError(str(error).replace(file.name, name)) from error


def _volume(raw: Path | bytes, name: str) -> "SignalFile":
    from cml.data.signal_files import read_signal

    if isinstance(raw, Path):
        signal = read_signal(raw)
        if signal.kind == "picture":
            raise DataError(f"{name} is a picture; the codec takes {KINDS[3]}.")
        return signal
    with tempfile.NamedTemporaryFile(suffix=_suffix_of(raw)) as file:
        file.write(raw)
        file.flush()
        try:
            return read_signal(file.name)
        except DataError as error:
            raise DataError(str(error).replace(file.name, name)) from error


def _suffix_of(data: bytes) -> str:
    """What a file of three axes would be called, by its first bytes; FFmpeg looks for itself."""
    for start, suffix in ((_NUMPY, ".npy"), (_GZIP, ".nii.gz"), (_ZIP, ".npz"), (_MATLAB, ".mat")):
        if data.startswith(start):
            return suffix
    return ".nii" if b"n+" in (data[344:346], data[4:6]) else ".mkv"


def _opened(raw: Path | bytes) -> Any:
    return io.BytesIO(raw) if isinstance(raw, bytes) else raw


def _mode(raw: Path | bytes) -> str | None:
    try:
        with open_picture(_opened(raw)) as picture:
            return picture.mode
    except UNREADABLE:
        return None


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
