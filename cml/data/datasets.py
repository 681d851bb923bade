"""Classification data sets of images: `elpv` and `folder:PATH`. Another one is a function and a registry line."""

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from cml.codecs.conventional import UNREADABLE, open_picture
from cml.data.signals import IMAGE_SUFFIXES, find_images, read_image
from cml.errors import DataError
from cml.registry import Registry

DATASETS = Registry("dataset", {"elpv": "cml.data.datasets:elpv", "folder": "cml.data.datasets:folder"})
TEST_SHARE = 0.25
SPLIT_SEED = 20250101


@dataclass(frozen=True)
class Split:
    """Files and their labels, read one at a time.

    Attributes:
        paths: one file a sample.
        labels: int64 (N,), indices into the data set's classes.
        channels: every sample is read as grey (1) or RGB (3).
    """

    paths: Sequence[Path]
    labels: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Tensor:
        """One sample, (C, H, W) uint8 (uint16 for 16-bit grey)."""
        return read_image(self.paths[index], self.channels)


@dataclass(frozen=True)
class ImageDataset:
    """A classification data set with a fixed split.

    Attributes:
        name: what the user typed.
        classes: names in the order of the labels.
        train, test: the two splits; nothing is ever chosen on `test`.
        size: side in pixels to which a task resizes whole pictures unless told otherwise.
        revision: fingerprint of every file's content and label.
        description: one line for the report.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    size: int
    revision: str
    description: str

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.train.channels


def load_dataset(name: str) -> ImageDataset:
    """A data set by name: "elpv", or "folder:PATH"."""
    kind, _, argument = name.partition(":")
    make: Callable[..., ImageDataset] = DATASETS.get(kind)
    return make(argument) if argument else make()


def stratified_split(strata: Sequence[str], share: float, seed: int) -> np.ndarray:
    """True for the `share` of the samples that go to test, the same share of every stratum."""
    order = np.random.default_rng(seed).permutation(len(strata))
    test = np.zeros(len(strata), bool)
    labels = np.array(strata)
    for stratum in sorted(set(strata)):
        members = [i for i in order if labels[i] == stratum]
        test[members[: round(share * len(members))]] = True
    return test


def fingerprint_files(paths: Sequence[Path], labels: Sequence[int]) -> str:
    """12 hexadecimal digits that change with any file's name, content or label."""
    digest = hashlib.sha256()
    for path, label in zip(paths, labels, strict=True):
        digest.update(f"{path.name}:{label}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def elpv() -> ImageDataset:
    """2,624 electroluminescence images of solar cells, 300x300 grey (Deitsch et al., 2019; PyPI `elpv-dataset`).

    Defective means a defect probability of at least one half. The split is stratified by label and cell type and keeps
    a quarter for test. Cells of one module can fall on both sides: the data set does not say which belong together.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise DataError("The data set elpv is a package of its own: pip install 'cml-toolkit[demo]', or elpv-dataset.")
    root = Path(found.origin).parent / "data"
    with open(root / "labels.csv") as file:
        rows = [line.split() for line in file.read().splitlines() if line.strip()]
    paths = [root / row[0] for row in rows]
    labels = np.array([int(float(row[1]) >= 0.5) for row in rows])
    test = stratified_split(
        [f"{label}-{row[2]}" for label, row in zip(labels, rows, strict=True)], TEST_SHARE, SPLIT_SEED
    )
    version = importlib.metadata.version("elpv-dataset")
    return ImageDataset(
        name="elpv",
        classes=("functional", "defective"),
        train=Split([p for p, t in zip(paths, test, strict=True) if not t], labels[~test], 1),
        test=Split([p for p, t in zip(paths, test, strict=True) if t], labels[test], 1),
        size=256,
        revision=fingerprint_files(paths, labels.tolist()),
        description=f"solar cells (elpv-dataset {version}), defect probability >= 0.5",
    )


def folder(path: str = "") -> ImageDataset:
    """One folder a class, or `train` and `test` folders of such; without them a seeded quarter of each class is test.

    Where there is no `test`, `val` or `validation` is the test split; beside `test` it is left alone.
    """
    root = Path(os.path.expanduser(path))
    if not path or not root.is_dir():
        raise DataError(f"folder:PATH needs a folder of class folders; there is none at {path!r}.")
    held_out = next((name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held_out:
        train, classes = _class_folders(root / "train")
        test, test_classes = _class_folders(root / held_out)
        if classes != test_classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise DataError(
                f"{root}: train and {held_out} must have the same class folders; they differ in {', '.join(odd)}."
            )
    else:
        samples, classes = _class_folders(root)
        held = stratified_split([str(label) for _, label in samples], TEST_SHARE, SPLIT_SEED)
        train = [s for s, t in zip(samples, held, strict=True) if not t]
        test = [s for s, t in zip(samples, held, strict=True) if t]
    if len(classes) < 2 or not train or not test:
        raise DataError(f"{root}: a classification needs two class folders or more with pictures in train and test.")
    everything = train + test
    headers = [_header(file) for file, _ in everything]
    channels = 1 if all(mode in ("1", "L", "I", "I;16") for mode, _ in headers) else 3
    middle = int(np.median([min(size) for _, size in headers]))

    def split(samples: list[tuple[Path, int]]) -> Split:
        return Split([p for p, _ in samples], np.array([label for _, label in samples]), channels)

    return ImageDataset(
        name=f"folder:{path}",
        classes=classes,
        train=split(train),
        test=split(test),
        size=max(32, min(256, middle // 32 * 32)),
        revision=fingerprint_files([p for p, _ in everything], [label for _, label in everything]),
        description=f"{root.name}, {len(classes)} classes",
    )


def _class_folders(root: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not classes:
        loose = any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in root.iterdir())
        raise DataError(
            f"{root} has no class folders" + ("; its pictures must lie in one folder a class." if loose else ".")
        )
    return [(file, label) for label, name in enumerate(classes) for file in find_images(root / name)], classes


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with open_picture(path) as picture:
            return picture.mode, picture.size
    except UNREADABLE as error:
        raise DataError(f"Cannot read {path} as a picture: {error}.") from error
