"""Hyperspectral cubes with a class for each labelled pixel, and a spatially disjoint split of one cube.

    indian-pines          Indian Pines (AVIRIS, 1992) as the package tensorly brings it
    indian-pines:PATH     the same from a folder of Indian_pines_corrected and Indian_pines_gt, .npy or .mat
    cube:CUBE,LABELS      any cube that `read_cube` reads, or .npy as (y, x, bands), and a map of labels, .npy or .mat

Another one is a function and a registry line.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cml.data.cubes import read_cube
from cml.errors import DataError
from cml.registry import Registry

HYPER_SETS = Registry(
    "hyperspectral_set",
    {"indian-pines": "cml.data.hyper_sets:indian_pines", "cube": "cml.data.hyper_sets:labelled_cube"},
)
VOID = 255
"""The label of what counts nowhere."""
PARTS = ("train", "validation", "test")
_SHARES = (0.4, 0.2, 0.4)
_BLOCK, _LEAST = 16, 4  # sides of blocks in pixels
_GUARD = 2  # pixels between training pixels and those of other parts
_INDIAN_PINES = (
    "alfalfa", "corn-notill", "corn-mintill", "corn", "grass-pasture", "grass-trees", "grass-pasture-mowed",
    "hay-windrowed", "oats", "soybean-notill", "soybean-mintill", "soybean-clean", "wheat", "woods",
    "buildings-grass-trees-drives", "stone-steel-towers",
)  # fmt: skip


@dataclass(frozen=True)
class HyperSet:
    """One cube, its labels and its split.

    Attributes:
        cube: (1, bands, y, x), uint8, uint16 or float32.
        labels: uint8 (y, x), below K or `VOID`.
        classes: K names, in the order of the labels.
        blocks: int32 (y, x), the number of the block that a labelled pixel lies in, -1 elsewhere; 0, 1, ...
        parts: int8 (y, x), an index into `PARTS`, -1 where there is no label or the guard is.
        revision: fingerprint of samples, labels and split.
        description: one line for the report.
    """

    cube: Tensor
    labels: np.ndarray
    classes: tuple[str, ...]
    blocks: np.ndarray
    parts: np.ndarray
    revision: str
    description: str

    def part(self, name: str) -> np.ndarray:
        """uint8 (y, x), the labels of one of `PARTS`, `VOID` elsewhere."""
        return np.where(self.parts == PARTS.index(name), self.labels, VOID).astype(np.uint8)


def load_hyper(text: str) -> HyperSet:
    """A labelled cube by name: "indian-pines", "indian-pines:PATH", or "cube:CUBE,LABELS"."""
    kind, _, argument = text.partition(":")
    return HYPER_SETS.get(kind)(argument)


def indian_pines(path: str = "") -> HyperSet:
    """145x145 pixels of 20 m with 200 bands, 10,249 of them labelled with one of 16 classes."""
    if path:
        folder = Path(path).expanduser()
    else:
        package = importlib.util.find_spec("tensorly")
        if package is None or package.origin is None:
            raise DataError(
                "Indian Pines comes with the package tensorly: pip install --no-deps tensorly, or give the folder of "
                "its files, indian-pines:PATH."
            )
        folder = Path(package.origin).parent / "datasets" / "data"
    cube, labels = (_either(folder, f"Indian_pines_{name}") for name in ("corrected", "gt"))
    return _hyper_set(_read_cube(cube), _read_labels(labels), _INDIAN_PINES, "Indian Pines")


def labelled_cube(argument: str = "") -> HyperSet:
    """CUBE,LABELS: files of a cube and of a map of its size: 0 for no label, classes from 1 on."""
    cube, comma, labels = argument.partition(",")
    if not (cube and comma and labels):
        raise DataError("A labelled cube is named cube:CUBE,LABELS, two files.")
    made = _read_labels(Path(labels).expanduser())
    names = tuple(map(str, range(1, int(made.max(initial=0)) + 1)))
    return _hyper_set(_read_cube(Path(cube).expanduser()), made, names, Path(cube).stem)


def _hyper_set(cube: Tensor, labels: np.ndarray, classes: tuple[str, ...], name: str) -> HyperSet:
    """A set from a cube and its map as files have it: 0 for no label, classes from 1 on."""
    if labels.shape != tuple(cube.shape[2:]):
        raise DataError(
            f"{name}: the labels are {labels.shape[0]}x{labels.shape[1]} and the cube has {cube.shape[2]}x"
            f"{cube.shape[3]} pixels; they must agree."
        )
    if len(np.unique(labels[labels > 0])) < 2 or labels.max() > min(len(classes), VOID - 1):
        raise DataError(f"{name}: labels are 0 for none and 1 to {len(classes)}, of two classes or more.")
    labels = np.where(labels > 0, labels - 1, VOID).astype(np.uint8)
    blocks, parts = spatial_split(labels, len(classes))
    digest = hashlib.sha256()
    for array in (cube.numpy(), labels, blocks, parts):
        digest.update(np.ascontiguousarray(array).tobytes())
    counts = " ".join(f"{part} {(parts == number).sum()}" for number, part in enumerate(PARTS))
    return HyperSet(
        cube=cube,
        labels=labels,
        classes=classes,
        blocks=blocks,
        parts=parts,
        revision=digest.hexdigest()[:12],
        description=f"{name}, {cube.shape[1]} bands, {len(classes)} classes, labelled pixels by blocks: {counts}",
    )


def spatial_split(labels: np.ndarray, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of pixels, and a part for each, so that every class that can be is in `train` and in `test`.

    Neighbouring pixels are alike, so parts are made of whole blocks of 16x16; a block that holds most of a class is
    cut in four, down to 4x4. Classes take their turns, the rarest first: each of its blocks that has no part yet, in
    an order drawn by the seed, goes to the part of which the class lacks most, the first two to `train` and `test`.
    Training pixels within two pixels of another part are left out, unless that would take more than half of a class.

    Args:
        labels: uint8 (y, x), below `classes` or `VOID`.
        classes: how many there are.
        seed: of the draw.

    Returns:
        blocks and parts, as in `HyperSet`.
    """
    corners = _cut(labels, classes)
    counts = np.stack([_count(labels[y : y + side, x : x + side], classes) for y, x, side in corners])
    where = _draw(counts, np.random.default_rng(seed))
    blocks, parts = np.full(labels.shape, -1, np.int32), np.full(labels.shape, -1, np.int8)
    for number, (y, x, side) in enumerate(corners):
        blocks[y : y + side, x : x + side], parts[y : y + side, x : x + side] = number, where[number]
    blocks[labels == VOID], parts[labels == VOID] = -1, -1
    near = _near(parts > 0) & (parts == 0)
    for label in range(classes):
        mine = (labels == label) & (parts == 0)
        if 2 * (mine & near).sum() <= mine.sum():
            parts[mine & near] = -1
    return blocks, parts


def _cut(labels: np.ndarray, classes: int) -> list[tuple[int, int, int]]:
    """(y, x, side) of every block that has labels."""
    total, done = _count(labels, classes), []
    height, width = labels.shape
    todo = [(y, x, _BLOCK) for y in range(0, height, _BLOCK) for x in range(0, width, _BLOCK)]
    while todo:
        y, x, side = todo.pop(0)
        here = _count(labels[y : y + side, x : x + side], classes)
        if side > _LEAST and (2 * here > total).any():
            half = side // 2
            todo += [(y + down, x + right, half) for down in (0, half) for right in (0, half)]
        elif here.any():
            done.append((y, x, side))
    return sorted(done)


def _draw(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(blocks,) a part for each, from the pixels (blocks, classes) that they hold."""
    where = np.full(len(counts), -1)
    for label in np.argsort(counts.sum(0), kind="stable"):
        for block in rng.permutation(len(counts)):
            if where[block] < 0 and counts[block, label]:
                have = np.array([counts[where == part, label].sum() for part in range(len(PARTS))])
                lacks = np.array(_SHARES) * counts[:, label].sum() - have
                where[block] = next((part for part in (0, 2) if not have[part]), int(lacks.argmax()))
    return where


def _near(mask: np.ndarray) -> np.ndarray:
    """Where a mask holds within the guard, along either axis."""
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(mask).float()[None, None], 2 * _GUARD + 1, 1, _GUARD)
    return grown[0, 0].numpy() > 0


def _count(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=VOID + 1)[:classes]


def _either(folder: Path, stem: str) -> Path:
    found = next((path for suffix in (".npy", ".mat") if (path := folder / f"{stem}{suffix}").is_file()), None)
    if found is None:
        raise DataError(f"{folder} must hold {stem}.npy or {stem}.mat.")
    return found


def _read_cube(path: Path) -> Tensor:
    if path.suffix.lower() != ".npy":
        return read_cube(path).samples
    array = _load(path)
    if array.ndim != 3 or array.dtype.kind not in "uif" or 0 in array.shape:
        raise DataError(f"{path} must hold a cube (y, x, bands) of numbers, not {array.dtype} {array.shape}.")
    bands = np.ascontiguousarray(array.transpose(2, 0, 1))[None]
    if bands.dtype in (np.uint8, np.uint16):
        return torch.from_numpy(bands)
    if bands.dtype.kind != "f" and bands.min() >= 0 and bands.max() < 2**16:
        return torch.from_numpy(bands.astype(np.uint16))
    x = torch.from_numpy(bands.astype(np.float32))
    if not torch.isfinite(x).all():
        raise DataError(f"{path} holds NaN or infinity; clean it first.")
    return x


def _read_labels(path: Path) -> np.ndarray:
    """int64 (y, x)."""
    if path.suffix.lower() == ".mat":
        from scipy.io import loadmat

        try:
            arrays = [v for k, v in loadmat(str(path)).items() if not k.startswith("__") and v.ndim == 2 and v.size > 1]
        except (OSError, ValueError, TypeError, NotImplementedError) as error:
            raise DataError(f"Cannot read {path} as a MATLAB file: {str(error).rstrip('.')}.") from error
        if len(arrays) != 1:
            raise DataError(f"{path} must hold one map of labels (y, x); it holds {len(arrays)}.")
        labels = arrays[0]
    else:
        labels = _load(path)
    if labels.ndim != 2 or labels.dtype.kind not in "uif" or labels.size == 0:
        raise DataError(f"{path} must hold a map of labels (y, x), not {labels.dtype} {labels.shape}.")
    whole = labels.astype(np.int64)
    if (whole != labels).any() or whole.min() < 0:
        raise DataError(f"{path} is no map of labels: these are whole numbers, 0 for none.")
    return whole


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"Cannot read {path} as a numpy array: {str(error).rstrip('.')}.") from error
