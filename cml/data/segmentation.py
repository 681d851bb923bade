"""Segmentation data sets, pictures with a label for each pixel: `folder-seg:PATH`, and `hf:NAME` beside this file.

Another one is a function and a registry line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.conventional import UNREADABLE, open_picture
from cml.data.datasets import fingerprint_files
from cml.data.latents import map_items
from cml.data.signals import IMAGE_SUFFIXES, read_image, read_picture
from cml.errors import DataError
from cml.files import read_bytes
from cml.registry import Registry

SEGMENTATION_SETS = Registry(
    "segmentation_set",
    {"folder-seg": "cml.data.segmentation:folder_seg", "hf": "cml.data.segmentation_hf:hf_segmentation"},
)
VOID = 255
"""The label of what counts nowhere."""
# What the maps of the CamVid that comes with SegNet mean; 11, behind them, is void.
_CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
GREY_MODES = ("1", "L", "I", "I;16")


class LabelledPictures(Protocol):
    """One split: pictures and their label maps, read one at a time."""

    @property
    def channels(self) -> int:
        """Every picture is read as grey (1) or RGB (3)."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """One picture, (C, H, W) uint8 (uint16 for 16-bit grey)."""
        ...

    def labels(self, index: int, size: tuple[int, int]) -> Tensor:
        """The labels of one picture, uint8 (*size), below K or `VOID`; resized by taking the nearest."""
        ...


@dataclass(frozen=True)
class MapSplit:
    """`LabelledPictures` that lie in files.

    Attributes:
        paths, maps: files, one each a sample.
        channels: every picture is read as grey (1) or RGB (3).
        classes: K.
    """

    paths: Sequence[Path]
    maps: Sequence[Path]
    channels: int
    classes: int

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Tensor:
        """One picture, (C, H, W) uint8 (uint16 for 16-bit grey)."""
        return read_image(self.paths[index], self.channels)

    def labels(self, index: int, size: tuple[int, int]) -> Tensor:
        """The labels of one picture, uint8 (*size), below K or `VOID`; resized by taking the nearest."""
        labels = read_map(self.maps[index])
        labels[labels == self.classes] = VOID
        return resize_map(labels, size)


@dataclass(frozen=True)
class SegmentationSet:
    """A segmentation data set with a fixed split.

    Attributes:
        classes: names in the order of the labels.
        train, test: the two splits; nothing is ever chosen on `test`.
        size: (height, width), the median picture's.
        frequencies: (K,) pixels of each class in the training split.
        revision: fingerprint of every file's content.
        description: one line for the report.
    """

    classes: tuple[str, ...]
    train: LabelledPictures
    test: LabelledPictures
    size: tuple[int, int]
    frequencies: np.ndarray
    revision: str
    description: str


def load_segmentation(name: str) -> SegmentationSet:
    """A data set by name: "folder-seg:PATH", or "hf:NAME_OR_FOLDER[,CONFIGURATION]"."""
    kind, _, argument = name.partition(":")
    return SEGMENTATION_SETS.get(kind)(argument)


def read_map(path: Path) -> np.ndarray:
    """A label map, uint8 (H, W): the samples of a grey file, the palette's numbers of one with a palette."""
    return map_labels(read_picture(path), str(path))


def map_labels(picture: Image.Image, name: str) -> np.ndarray:
    """The labels of a decoded map, uint8 (H, W)."""
    if picture.mode not in ("L", "P"):
        raise DataError(f"{name} is no label map: it must be 8-bit grey or have a palette, not {picture.mode}.")
    return np.array(picture)


def resize_map(labels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Labels, uint8 (H, W), brought to a size by taking the nearest."""
    if labels.shape == size:
        return torch.from_numpy(labels)
    return torch.from_numpy(np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)))


def count_labels(labels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """(256,) pixels of each label of one map, once its size is that of its picture, (height, width)."""
    if labels.shape != size:
        raise DataError(
            f"{name} is {labels.shape[1]}x{labels.shape[0]} and its picture {size[1]}x{size[0]}; they must agree."
        )
    return np.bincount(labels.ravel(), minlength=256)


def refuse_labels(counts: np.ndarray, last: int, classes: int, name: Callable[[int], str]) -> None:
    """Say which map has a label above the last that there may be; `counts` is (maps, 256)."""
    unknown = [label for label in np.flatnonzero(counts.sum(0)).tolist() if last < label < VOID]
    if unknown:
        where = name(int(counts[:, unknown[0]].nonzero()[0][0]))
        raise DataError(f"{where} holds the label {unknown[0]}, and there are {classes} classes (0 to {classes - 1}).")


def folder_seg(path: str = "") -> SegmentationSet:
    """Folders of pictures, and folders of label maps (PNG) of the same names and sizes.

    Beside each other, as CamVid comes with SegNet, or inside, one way for both splits:

        PATH/train, PATH/trainannot, PATH/test, PATH/testannot
        PATH/train/images, PATH/train/labels, PATH/test/images, PATH/test/labels

    Where there is no `test`, `val` or `validation` is the test split; beside `test` it is left alone. Labels are
    0, 1, ...; 255 counts nowhere. PATH/classes.txt names them, one a line; then the label behind the last one counts
    nowhere either. Without it, `trainannot` with labels up to 11 is taken for CamVid (11 is void), and all else for
    unnamed classes.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise DataError(f"folder-seg:PATH needs a folder of pictures and label maps; there is none at {path!r}.")
    held_out = next((name for name in ("test", "val", "validation") if (root / name).is_dir()), "test")
    pairs = {split: _pairs(*_folders(root, name)) for split, name in (("train", "train"), ("test", held_out))}
    both = pairs["train"] + pairs["test"]
    counts = np.stack(map_items(lambda index: _count(*both[index]), len(both)))
    classes = _classes(root, np.flatnonzero(counts.sum(0)))
    refuse_labels(counts, len(classes), len(classes), lambda number: str(both[number][1]))
    headers = [_header(picture) for picture, _ in both]
    channels = 1 if all(mode in GREY_MODES for mode, _ in headers) else 3
    width, height = (int(np.median([size[axis] for _, size in headers])) for axis in (0, 1))
    files = [file for pair in both for file in pair]

    def split(pairs: list[tuple[Path, Path]]) -> MapSplit:
        return MapSplit([picture for picture, _ in pairs], [label for _, label in pairs], channels, len(classes))

    return SegmentationSet(
        classes=classes,
        train=split(pairs["train"]),
        test=split(pairs["test"]),
        size=(height, width),
        frequencies=counts[: len(pairs["train"]), : len(classes)].sum(0),
        revision=fingerprint_files(files, [len(classes)] * len(files)),
        description=f"{root.resolve().name}, {len(classes)} classes",
    )


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    ways = (root / split, root / f"{split}annot"), (root / split / "images", root / split / "labels")
    found = next((way for way in ways if all(folder.is_dir() for folder in way)), None)
    if found is None:
        raise DataError(f"{root} must hold {split} and {split}annot, or {split}/images and {split}/labels.")
    return found


def _pairs(pictures: Path, maps: Path) -> list[tuple[Path, Path]]:
    files = sorted(file for file in pictures.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    labels = {file.stem: file for file in maps.iterdir() if file.suffix.lower() == ".png"}
    if not files:
        raise DataError(f"{pictures} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    for file in files:
        if file.stem not in labels:
            raise DataError(f"{file} has no label map: {maps / (file.stem + '.png')} is missing.")
    for stem in sorted(labels.keys() - {file.stem for file in files}):
        raise DataError(f"{labels[stem]} has no picture in {pictures}.")
    return [(file, labels[file.stem]) for file in files]


def _count(picture: Path, label: Path) -> np.ndarray:
    _, (width, height) = _header(picture)
    return count_labels(read_map(label), (height, width), str(label))


def _classes(root: Path, seen: np.ndarray) -> tuple[str, ...]:
    listed = root / "classes.txt"
    if listed.exists():
        names = tuple(line.strip() for line in read_bytes(listed).decode().splitlines() if line.strip())
        if len(names) < 2 or len(set(names)) < len(names) or len(names) > VOID:
            raise DataError(f"{listed} must name two classes or more, each once.")
        return names
    if (root / "trainannot").is_dir() and max(seen[seen < VOID], default=0) == len(_CAMVID):
        return _CAMVID
    return unnamed_classes(seen, str(root))


def unnamed_classes(seen: np.ndarray, name: str) -> tuple[str, ...]:
    """Numbers for names, up to the last label that maps hold."""
    last = int(max(seen[seen < VOID], default=0))
    if last < 1:
        raise DataError(f"{name}: a segmentation needs two classes or more; its maps hold one.")
    return tuple(str(label) for label in range(last + 1))


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with open_picture(path) as picture:
            return picture.mode, picture.size
    except UNREADABLE as error:
        raise DataError(f"Cannot read {path} as a picture: {error}.") from error
