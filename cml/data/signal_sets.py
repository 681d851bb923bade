"""Sets of volumes, cubes and videos, with a train and a test side: listed at once, each signal read when asked for.

    volumes:PATH   a folder of scans; CT_AVM and chris_t1 are test, label maps (NAME.nii.txt beside) are left out
    jasper:PATH    the Jasper Ridge cube: its upper 70 rows are train, the lower 30 are test
    frames:PATH    a folder of numbered pictures, as clips of 8 in a row; PATH/train and PATH/test where there are such
    video:PATH     a folder of videos
    PATH           a folder of anything that `read_signal` reads, of one kind

A folder with the subfolders train and test has these sides; of any other, everything is test.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from cml.data.samples import SignalFile
from cml.data.signal_files import find_signals, kind_of, read_signal
from cml.data.signals import find_images, read_image
from cml.data.video import VIDEO_SUFFIXES
from cml.errors import DataError

CLIP = 8  # frames
_TEST_SCANS = ("CT_AVM", "chris_t1")
_JASPER, _JASPER_TRAIN = "jasperRidge2_R198.mat", 0.7
_HEAD = 1 << 16  # bytes of each file that enter the revision


@dataclass(frozen=True)
class LazySignal:
    """A signal that is read when it is asked for; it pickles.

    Attributes:
        name: unique within its set, and a usable file name.
        load: reads it.
    """

    name: str
    load: Callable[[], SignalFile]

    def read(self) -> SignalFile:
        """samples (C, *axes), and facts."""
        return self.load()


@dataclass(frozen=True)
class SignalSet:
    """Signals of one kind.

    Attributes:
        name: what the text named, without its folder: "volumes", "jasper", "frames", "video", or the folder's name.
        kind: volume, cube, video or picture.
        train, test: the sides; `train` may be empty.
        revision: 12 digits of a hash of names, sizes and the first 64 kB of each file.
        description: one sentence on what is in it and how it was split.
    """

    name: str
    kind: str
    train: list[LazySignal]
    test: list[LazySignal]
    revision: str
    description: str


def load_signals(text: str | Path) -> SignalSet:
    """The set that a text names, as in the docstring of this module.

    Raises:
        DataError: there is no such folder, or nothing of that kind in it.
    """
    kind, colon, rest = str(text).partition(":")
    if colon and kind in _SETS:
        return _SETS[kind](Path(rest).expanduser())
    path = Path(text).expanduser()
    if not path.is_dir():
        raise DataError(f"There is no folder {text}, and no set of that name: {', '.join(f'{n}:PATH' for n in _SETS)}.")
    return _folder(path.resolve().name, path, find_signals(path))


def _volumes(path: Path) -> SignalSet:
    scans = [file for file in find_signals(path) if not file.with_name(f"{_stem(file)}.nii.txt").is_file()]
    by_name = [file for file in scans if _stem(file) in _TEST_SCANS]
    if not by_name:
        return _folder("volumes", path, scans)
    train = [file for file in scans if file not in by_name]
    told = f"test {', '.join(sorted(_stem(file) for file in by_name))}; the others are train"
    return _as_set("volumes", "volume", path, train, by_name, f"{len(scans)} scans: {told}.")


def _stem(file: Path) -> str:
    """mricron_aal.nii.gz to mricron_aal."""
    return file.name.partition(".")[0]


def _jasper(path: Path) -> SignalSet:
    file = path / _JASPER if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"There is no {_JASPER} in {path}; jasper:PATH names the file or its folder.")
    sides = [LazySignal(f"jasper_{side}", partial(_rows, file, side)) for side in ("train", "test")]
    return SignalSet(
        "jasper", "cube", sides[:1], sides[1:], _revision(file.parent, [file]),
        f"Jasper Ridge, {file.name}: the upper {_JASPER_TRAIN:.0%} of the rows are train, the rest test.",
    )  # fmt: skip


def _rows(file: Path, side: str) -> SignalFile:
    cube = read_signal(file)
    border = round(_JASPER_TRAIN * cube.samples.shape[2])
    rows = slice(None, border) if side == "train" else slice(border, None)
    return SignalFile(cube.samples[:, :, rows].contiguous(), cube.facts)


def _frames(path: Path) -> SignalSet:
    sides = {side: path / side for side in ("train", "test") if (path / side).is_dir()}
    clips = {side: _clips(folder) for side, folder in (sides if len(sides) == 2 else {"test": path}).items()}
    train, test = ([_clip(files) for files in clips.get(side, [])] for side in ("train", "test"))
    files = [file for side in clips.values() for clip in side for file in clip]
    return SignalSet(
        "frames", "video", train, test, _revision(path, files),
        f"Clips of {CLIP} numbered pictures in a row: {len(train)} train, {len(test)} test.",
    )  # fmt: skip


def _clips(folder: Path) -> list[list[Path]]:
    """Pictures with the same name but for the number at its end, evenly spaced, cut into clips; rests are left out."""
    sequences: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for file in find_images(folder):
        match = re.fullmatch(r"(.*?)(\d+)", file.stem)
        if match:
            sequences[f"{file.parent}/{match[1]}"].append((int(match[2]), file))
    out: list[list[Path]] = []
    for numbered in sequences.values():
        numbered.sort()
        steps = Counter(after[0] - before[0] for before, after in pairwise(numbered))
        usual = min(steps, key=lambda step: (-steps[step], step)) if steps else 1
        run: list[Path] = []
        for number, (at, file) in enumerate(numbered):
            if number and at - numbered[number - 1][0] != usual:
                run = []
            run.append(file)
            if len(run) == CLIP:
                out.append(run)
                run = []
    if not out:
        raise DataError(f"{folder} holds no {CLIP} pictures with evenly spaced numbers at the end of their names.")
    return out


def _clip(files: Sequence[Path]) -> LazySignal:
    return LazySignal(f"{files[0].stem}_to_{files[-1].stem}", partial(_read_clip, tuple(files)))


def _read_clip(files: Sequence[Path]) -> SignalFile:
    pictures = [read_image(file, 3) for file in files]
    if len({picture.shape for picture in pictures}) > 1:
        raise DataError(f"The pictures from {files[0]} to {files[-1]} differ in size; make them one.")
    return SignalFile(torch.stack(pictures, 1), {"kind": "video", "dtype": "uint8", "format": "pictures"})


def _video(path: Path) -> SignalSet:
    return _folder("video", path, [file for file in find_signals(path) if file.suffix.lower() in VIDEO_SUFFIXES])


_SETS = {"volumes": _volumes, "jasper": _jasper, "frames": _frames, "video": _video}


def _folder(name: str, path: Path, files: Iterable[Path]) -> SignalSet:
    files = list(files)
    if not files:
        raise DataError(f"{path} holds nothing that this set could be made of.")
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise DataError(f"{path} holds signals of several kinds ({', '.join(sorted(kinds))}); give each a folder.")
    sides = {side: [f for f in files if f.relative_to(path).parts[0] == side] for side in ("train", "test")}
    (kind,) = kinds
    if sides["train"] and sides["test"]:
        told = f"{len(sides['train'])} train, {len(sides['test'])} test, by folder."
        return _as_set(name, kind, path, sides["train"], sides["test"], f"Files of {path.name}: {told}")
    return _as_set(name, kind, path, [], files, f"Files of {path.name}: {len(files)}, all of them test.")


def _kind(file: Path) -> str:
    """volume, cube, video or picture, by the file's name and first bytes."""
    kind = kind_of(file)
    if kind is None:
        raise DataError(f"cml does not know how to read {file} as a signal.")
    return kind


def _as_set(
    name: str, kind: str, path: Path, train: Sequence[Path], test: Sequence[Path], description: str
) -> SignalSet:
    sides = [[LazySignal(_name(file, path), partial(read_signal, file)) for file in side] for side in (train, test)]
    return SignalSet(name, kind, sides[0], sides[1], _revision(path, [*train, *test]), description)


def _name(file: Path, root: Path) -> str:
    below = file.relative_to(root)
    return "_".join((*below.parts[:-1], _stem(below)))


def _revision(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(repr((file.relative_to(root).as_posix(), file.stat().st_size)).encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_HEAD))
    return digest.hexdigest()[:12]
