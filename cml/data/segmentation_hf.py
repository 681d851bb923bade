"""Segmentation data sets of Hugging Face `datasets`, from the hub or a folder: `hf:NAME_OR_FOLDER[,CONFIGURATION]`.

rows with a picture and a label map, as they are stored --one at a time, when asked for--> image, labels
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cml.codecs.conventional import UNREADABLE, open_picture
from cml.data.latents import map_items
from cml.data.segmentation import (
    GREY_MODES,
    VOID,
    SegmentationSet,
    count_labels,
    map_labels,
    refuse_labels,
    resize_map,
    unnamed_classes,
)
from cml.errors import DataError
from cml.files import read_bytes

_NAMES = "id2label.json"
"""Beside the data, as data sets for SegFormer have it: {"0": "road", "1": "sky", ...}."""
_HELD_OUT = ("test", "val", "validation")
_MAP_WORDS = ("label", "annotation", "mask", "seg")
_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr")


@dataclass(frozen=True)
class RowSplit:
    """`LabelledPictures` in the rows of a table.

    Attributes:
        rows: `datasets.Dataset`, whose pictures are bytes or paths.
        columns: of the pictures, and of their label maps.
        name: for messages.
        channels: every picture is read as grey (1) or RGB (3).
    """

    rows: Any
    columns: tuple[str, str]
    name: str
    channels: int = 3

    def __len__(self) -> int:
        return len(self.rows)

    def who(self, index: int) -> str:
        """A row by its name."""
        return f"{self.name}, row {index},"

    def stored(self, index: int) -> tuple[bytes, bytes]:
        """The files of a picture and of its label map."""
        row = self.rows[index]
        picture, labels = (_bytes(row[column], f"{self.who(index)} column {column},") for column in self.columns)
        return picture, labels

    def image(self, index: int) -> Tensor:
        """One picture, (C, H, W) uint8."""
        picture = _decode(self.stored(index)[0], self.who(index))
        if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
            picture = picture.convert("RGB")  # transparency that hides nothing
        if picture.mode not in _MODES:
            raise DataError(
                f"{self.who(index)} has a picture of the kind {picture.mode}; tasks take 8-bit grey or RGB."
            )
        samples = np.array(picture.convert("L" if self.channels == 1 else "RGB"))
        return torch.from_numpy(samples).reshape(*samples.shape[:2], self.channels).permute(2, 0, 1).contiguous()

    def labels(self, index: int, size: tuple[int, int]) -> Tensor:
        """The labels of one picture, uint8 (*size), below K or `VOID`; resized by taking the nearest."""
        return resize_map(self.map(index), size)

    def map(self, index: int) -> np.ndarray:
        """The label map as it is stored, uint8 (H, W)."""
        name = f"{self.who(index)} column {self.columns[1]},"
        return map_labels(_decode(self.stored(index)[1], name), name)


def hf_segmentation(argument: str = "") -> SegmentationSet:
    """A data set with a picture and a label map in each row, by its name on the hub or its folder.

    Of its columns of pictures one must say label, annotation, mask or seg in its name, and one must not. The split
    `train` trains; `test` tests, or `val` or `validation` where it is missing or comes without maps, as challenges
    publish theirs. Labels are 0, 1, ...; 255 counts nowhere. Names of the classes are those of id2label.json beside the
    data, or of a column that lists the classes of each picture (a list of `ClassLabel`); without both they are numbers.

    Args:
        argument: "OWNER/NAME" or a folder, as `datasets.load_dataset` takes it; ",CONFIGURATION" behind it where there
            are several.

    Raises:
        DataError: no such data set, no network, not these columns and splits, or a wrong pair; the sentence names it.
    """
    if not argument:
        raise DataError("hf:NAME needs the name of a data set on the hub, or the folder of one.")
    argument = os.path.expanduser(argument)
    name, _, configuration = (argument, "", "") if Path(argument).is_dir() else argument.partition(",")
    data, names = _load(argument, name, configuration)
    features = next(iter(data.values())).features
    columns = _columns(argument, features)
    stored = {split: _undecoded(data[split], columns) for split in ("train", *_HELD_OUT) if split in data}
    held_out = next((split for split in _HELD_OUT if split in stored and _has_maps(stored[split], columns[1])), None)
    if "train" not in stored or held_out is None:
        raise DataError(
            f"{argument} needs the splits train and test (or validation), with label maps; it has {', '.join(data)}."
        )
    splits = [RowSplit(stored[split], columns, f"{argument}, {split}") for split in ("train", held_out)]
    rows = [(split, index) for split in splits for index in range(len(split))]
    scanned = map_items(lambda number: _scan(*rows[number]), len(rows))
    counts = np.stack([row.counts for row in scanned])
    seen = np.flatnonzero(counts.sum(0))
    classes = names or _listed(features, seen) or unnamed_classes(seen, argument)
    refuse_labels(counts, len(classes) - 1, len(classes), lambda number: rows[number][0].who(rows[number][1]))
    width, height = np.median([row.size for row in scanned], 0).astype(int).tolist()
    channels = 1 if all(row.mode in GREY_MODES for row in scanned) else 3
    train, test = (RowSplit(split.rows, columns, split.name, channels) for split in splits)
    digest = hashlib.sha256(f"{len(train)} {classes}".encode() + b"".join(row.digest for row in scanned))
    return SegmentationSet(
        classes=classes,
        train=train,
        test=test,
        size=(height, width),
        frequencies=counts[: len(train), : len(classes)].sum(0),
        revision=digest.hexdigest()[:12],
        description=f"{Path(name).resolve().name if Path(name).is_dir() else name}, {len(classes)} classes",
    )


@dataclass(frozen=True)
class _Scanned:
    """Of one row: (256,) pixels of each label, mode and (width, height) of the picture, SHA-256 of both files."""

    counts: np.ndarray
    mode: str
    size: tuple[int, int]
    digest: bytes


def _scan(split: RowSplit, index: int) -> _Scanned:
    picture, labels = split.stored(index)
    try:
        with open_picture(io.BytesIO(picture)) as header:
            mode, (width, height) = header.mode, header.size
    except UNREADABLE as error:
        raise DataError(f"{split.who(index)} holds a picture that cannot be read: {error}.") from error
    counts = count_labels(split.map(index), (height, width), f"The map of {split.who(index)}")
    return _Scanned(counts, mode, (width, height), hashlib.sha256(picture).digest() + hashlib.sha256(labels).digest())


def _load(argument: str, name: str, configuration: str) -> tuple[Mapping[str, Any], tuple[str, ...] | None]:
    """The splits, and the names of the classes where a file beside them says so."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("Data sets by hf:NAME need a package: pip install datasets.") from error
    try:
        data: Any = datasets.load_dataset(name, configuration or None)
        file = _names_file(name)
    except Exception as error:  # whatever the hub, the network or a file of theirs raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"Cannot load the data set hf:{argument} ({reason}): check the name and the network, or bring it in a "
            "folder and give hf:FOLDER."
        ) from error
    return data, _named(file) if file else None


def _names_file(name: str) -> Path | None:
    """`_NAMES` of a data set, fetched where it is on the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if Path(name).is_dir():
        return file if (file := Path(name) / _NAMES).exists() else None
    try:
        return Path(hf_hub_download(name, _NAMES, repo_type="dataset"))
    except EntryNotFoundError:
        return None


def _named(file: Path) -> tuple[str, ...]:
    try:
        names = json.loads(read_bytes(file))
        classes = tuple(str(names[str(label)]) for label in range(len(names)))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{file} must map every label from "0" on to the name of a class.') from error
    if not 2 <= len(classes) <= VOID or len(set(classes)) < len(classes):
        raise DataError(f"{file} must name two classes or more, each once.")
    return classes


def _columns(argument: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of the pictures and of the maps."""
    import datasets

    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    maps = [name for name in pictures if any(word in name.lower() for word in _MAP_WORDS)]
    others = [name for name in pictures if name not in maps]
    if len(maps) != 1 or len(others) != 1:
        raise DataError(
            f"{argument} must have a column of pictures, and one of label maps whose name says "
            f"{', '.join(_MAP_WORDS)}; its columns of pictures are {', '.join(pictures) or 'none'}."
        )
    return others[0], maps[0]


def _listed(features: Mapping[str, Any], seen: np.ndarray) -> tuple[str, ...] | None:
    """The names of a column that lists classes, where there is one and it has names enough."""
    import datasets

    lists = [getattr(kind, "feature", None) for kind in features.values()]
    named = [tuple(kind.names) for kind in lists if isinstance(kind, datasets.ClassLabel)]
    return named[0] if len(named) == 1 and len(named[0]) > max(seen[seen < VOID], default=0) else None


def _undecoded(rows: Any, columns: tuple[str, str]) -> Any:
    """Only two columns, as files: so that what is hashed is what is stored, and wrong ones get our sentences."""
    import datasets

    rows = rows.select_columns(list(columns))
    for column in columns:
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _has_maps(rows: Any, column: str) -> bool:
    return len(rows) > 0 and rows[0][column] is not None


def _bytes(cell: Mapping[str, Any] | None, name: str) -> bytes:
    if cell is None:
        raise DataError(f"{name} is empty; every row needs a picture and a label map.")
    return cell["bytes"] if cell["bytes"] is not None else read_bytes(cell["path"])


def _decode(file: bytes, name: str) -> Image.Image:
    try:
        with open_picture(io.BytesIO(file)) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UNREADABLE as error:
        raise DataError(f"{name} cannot be read as a picture: {error}.") from error
