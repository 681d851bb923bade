"""Signals of three axes with a label at every place: scans here, clips of video in `cml.data.clips`.

    scans:PATH     PATH/train and PATH/test with scans and their label maps, NAME_labels beside NAME, .nii.gz or .npy
    mricron:PATH   one head (mricron_ch2) with the regions of the AAL atlas (mricron_aal), merged to a dozen

Another one is a function and a registry line.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cml.data.volumes import read_volume
from cml.errors import DataError
from cml.registry import Registry

VOLUME_SETS = Registry(
    "volume_set",
    {
        "scans": "cml.data.labelled_volumes:scans",
        "mricron": "cml.data.labelled_volumes:mricron",
        "folder-seg": "cml.data.clips:folder_clips",
    },
)
VOID = 255
"""The label of what counts nowhere."""
# Name: numbers of the atlas, those of both sides; all else is background.
_REGIONS: dict[str, range | tuple[int, ...]] = {
    "frontal": (*range(3, 17), *range(19, 29)),
    "central": (1, 2, 17, 18, 57, 58, 69, 70),
    "insula": (29, 30),
    "cingulum": range(31, 37),
    "hippocampus": range(37, 43),
    "occipital": range(43, 55),
    "fusiform": (55, 56),
    "parietal": range(59, 69),
    "basal ganglia": range(71, 77),
    "thalamus": (77, 78),
    "temporal": range(79, 91),
    "cerebellum": range(91, 117),
}
# Of the left half of the head in (z, y, x): whole cells of 8 around the brain. The plane between the halves is x = 90.
_HALF = (slice(8, 160), slice(16, 208), slice(2, 90))
_MIDDLE = 90
_CELL, _LABELS = 8, "_labels"


@dataclass(frozen=True)
class LabelledSplit:
    """Signals of one size and their labels, read one at a time.

    Attributes:
        count: how many.
        signal: index -> (C, *size), uint8 or uint16.
        labels: index -> uint8 (*size), below K or `VOID`.
    """

    count: int
    signal: Callable[[int], Tensor]
    labels: Callable[[int], Tensor]

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class LabelledSignals:
    """A data set with a fixed split.

    Attributes:
        classes: K names, in the order of the labels.
        train, test: the two splits; nothing is ever chosen on `test`.
        size: of every signal's three axes.
        channels: of every signal.
        blind: the labels that somebody would give to a test signal who has seen only those of the training split,
            index -> uint8 (*size); None for the most frequent class everywhere.
        revision: fingerprint of every signal and label.
        description: one line for the report.
    """

    classes: tuple[str, ...]
    train: LabelledSplit
    test: LabelledSplit
    size: tuple[int, int, int]
    channels: int
    blind: Callable[[int], Tensor] | None
    revision: str
    description: str

    @cached_property
    def frequencies(self) -> np.ndarray:
        """(K,) places of each class in the training split."""
        counts = [np.bincount(self.train.labels(i).numpy().ravel(), minlength=VOID + 1) for i in range(len(self.train))]
        return np.sum(counts, 0)[: len(self.classes)]


def load_labelled(text: str) -> LabelledSignals:
    """A set by name: "scans:PATH", "mricron:PATH", or "folder-seg:PATH" of numbered frames."""
    kind, _, argument = text.partition(":")
    return VOLUME_SETS.get(kind)(argument)


def scans(path: str = "") -> LabelledSignals:
    """Folders `train` and `test` of scans, each with its map of labels 0, 1, ..., of which 255 counts nowhere.

    Of every scan the middle is taken, as large as all have, in whole cells of 8 along each axis.
    """
    root = Path(path).expanduser()
    pairs = {split: _pairs(root / split) for split in ("train", "test")}
    loaded = {split: [_labelled(*pair) for pair in found] for split, found in pairs.items()}
    every = [*loaded["train"], *loaded["test"]]
    channels, depths = {len(x) for x, _ in every}, {x.dtype for x, _ in every}
    if len(channels) > 1 or len(depths) > 1:
        raise DataError(f"{path}: scans have as many channels each, and all 8 bits a sample or all 16.")
    sides = [min(labels.shape[axis] for _, labels in every) // _CELL * _CELL for axis in range(3)]
    if not all(sides):
        raise DataError(f"{path}: scans have {_CELL} slices, rows and columns or more.")
    size = (sides[0], sides[1], sides[2])
    cut = {split: [(_middle(x, size), _middle(y, size)) for x, y in found] for split, found in loaded.items()}
    labels = torch.cat([y.flatten() for found in cut.values() for _, y in found])
    last = int(labels[labels != VOID].max()) if (labels != VOID).any() else 0
    if last < 1:
        raise DataError(f"{path}: a segmentation needs two classes or more; its maps hold one.")
    return LabelledSignals(
        classes=tuple(map(str, range(last + 1))),
        train=_split(cut["train"]),
        test=_split(cut["test"]),
        size=size,
        channels=channels.pop(),
        blind=None,
        revision=_revision(cut["train"] + cut["test"]),
        description=f"{root.resolve().name}, {last + 1} classes",
    )


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Scans of a folder, each with its labels."""
    files = {_stem(path): path for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    names = [name for name in files if not name.endswith(_LABELS)]
    if not names:
        raise DataError(f"{folder} must hold scans, and beside each NAME its labels, NAME{_LABELS} (.nii.gz or .npy).")
    for name in names:
        if name + _LABELS not in files:
            raise DataError(f"{files[name]} has no labels: there must be {name}{_LABELS}, .nii.gz or .npy, beside it.")
    return [(files[name], files[name + _LABELS]) for name in names]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _labelled(scan: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """(C, *size) of 8 or 16 bits, and uint8 (*size); floats are stretched over 16 bits."""
    x, y = read_volume(scan).samples, read_volume(labels).samples
    if x.shape[1:] != y.shape[1:] or len(y) != 1:
        raise DataError(f"{labels} is of shape {tuple(y.shape)} and {scan} of {tuple(x.shape)}; they must agree.")
    if y.dtype != torch.uint8:
        raise DataError(f"{labels} is no map of labels: it must have 8 bits without a sign, not {y.dtype}.")
    return to_integers(x), y[0]


def to_integers(x: Tensor) -> Tensor:
    """Floats stretched over the 16 bits of uint16; integers as they are."""
    if not x.is_floating_point():
        return x
    low, high = x.aminmax()
    return ((x - low) / (high - low).clamp(min=1e-30) * 65535).round().to(torch.int32).to(torch.uint16)


def _middle(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    for axis, side in enumerate(size, x.dim() - 3):
        x = x.narrow(axis, (x.shape[axis] - side) // 2, side)
    return x.contiguous()


def _split(pairs: list[tuple[Tensor, Tensor]]) -> LabelledSplit:
    return LabelledSplit(len(pairs), lambda index: pairs[index][0], lambda index: pairs[index][1])


def _revision(pairs: list[tuple[Tensor, Tensor]]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for part in pair:
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:12]


def mricron(path: str = "") -> LabelledSignals:
    """The left half of one head to train on, and the right half, mirrored, to test on.

    One head is all that comes with labels. Its halves are different tissue, coded one by one, but about mirror images:
    the left labels laid over the right half agree with its own to a mean intersection over union of 0.7. That is what
    counts as chance (`blind`): what a model knows of places without seeing the test half.
    """
    folder = Path(path).expanduser()
    files = [folder / "mricron_ch2.nii.gz", folder / "mricron_aal.nii.gz"]
    if not path or not all(file.is_file() for file in files):
        raise DataError("mricron:PATH needs a folder with MRIcron's mricron_ch2.nii.gz and mricron_aal.nii.gz.")
    head, atlas = (read_volume(file).samples for file in files)
    if head.shape != atlas.shape or tuple(head.shape[1:]) != (181, 217, 181) or head.dtype != torch.uint8:
        raise DataError(f"{folder} holds other scans than those of MRIcron: a head and an atlas of 181x217x181 voxels.")
    merged = torch.zeros(256, dtype=torch.uint8)
    for label, numbers in enumerate(_REGIONS.values(), 1):
        merged[list(numbers)] = label
    labels = merged[atlas.long()]
    halves = [(_half(head, mirrored), _half(labels, mirrored)[0]) for mirrored in (False, True)]
    train, test = (_split([half]) for half in halves)
    return LabelledSignals(
        classes=("background", *_REGIONS),
        train=train,
        test=test,
        size=tuple(halves[0][1].shape),  # pyright: ignore[reportArgumentType]
        channels=1,
        blind=train.labels,
        revision=_revision(halves),
        description="MRIcron's ch2 with 12 regions merged from AAL: left half of the head to train, right, mirrored, "
        "to test; chance is the left labels on the right half",
    )


def _half(x: Tensor, mirrored: bool) -> Tensor:
    """The left half of (1, z, y, x), or the right one, mirrored; x grows to the right of the head."""
    if mirrored:
        x = x.flip(3)
    assert x.shape[3] == 2 * _MIDDLE + 1
    return x[:, *_HALF].contiguous()
