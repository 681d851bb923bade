"""Data sets of sound by name: `load_sounds` has classes, `load_stems` parts of a mixture, `load_clips` just clips.

    esc10:PATH[,fold=5][,without=N]   ESC-10, ten classes; the test fold, and one that is left out of both splits
    folder:PATH                       class folders, or `train` and `test` folders of such
    stems:PATH, slakh:PATH, musdb:PATH    pieces of several stems, in `cml.data.stems`
    ambisonic:PATH                    clips of four channels, first-order B-format

Another one is a function and a registry line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from cml.data.datasets import SPLIT_SEED, TEST_SHARE, fingerprint_files, stratified_split
from cml.data.sound import common_format, find_sounds, read_sound, sound_header
from cml.data.stems import STEM_SETS, StemDataset, StemSplit, existing_folder, load_stems
from cml.errors import DataError
from cml.registry import Registry

__all__ = ["ClipDataset", "ClipSplit", "SoundDataset", "SoundSplit", "load_clips", "load_sounds", "load_stems"]

SOUND_SETS = Registry("sound_set", {"esc10": "cml.data.sound_sets:esc10", "folder": "cml.data.sound_sets:folder"})
CLIP_SETS = Registry(
    "clip_set", {"folder": "cml.data.sound_sets:clip_folder", "ambisonic": "cml.data.sound_sets:ambisonic"}
)
FOLDS = (1, 2, 3, 4, 5)
_ESC_NAME = re.compile(r"([1-5])-\d+-[A-Z]\.\w+")  # fold, clip of Freesound, take
_BFORMAT = {"train": ("BF_rec1", "BF_rec3"), "test": ("BF_rec5",)}


@dataclass(frozen=True)
class SoundSplit:
    """Files and their labels, read one at a time.

    Attributes:
        paths: one file a clip.
        labels: int64 (N,), indices into the data set's classes.
        rate, channels, seconds: of every clip, whatever its file has.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    rate: int
    channels: int
    seconds: float

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def samples(self) -> int:
        """T: samples of a clip in each channel."""
        return max(1, round(self.seconds * self.rate))

    def sound(self, index: int) -> Tensor:
        """One clip, float32 (C, T) in [-1, 1]: the start of a longer file, a shorter one repeated from its start."""
        return fit_length(read_sound(self.paths[index], self.rate, self.channels).samples, self.samples)


@dataclass(frozen=True)
class SoundDataset:
    """A classification data set of sound with a fixed split.

    Attributes:
        name: what the user typed.
        classes: names in the order of the labels.
        train, test: the two splits; nothing is ever chosen on `test`.
        revision: fingerprint of every file's content and label, and of the split.
        description: one line for the report.
    """

    name: str
    classes: tuple[str, ...]
    train: SoundSplit
    test: SoundSplit
    revision: str
    description: str

    @property
    def rate(self) -> int:
        """Samples a second of every clip."""
        return self.train.rate

    @property
    def channels(self) -> int:
        """Of every clip."""
        return self.train.channels

    @property
    def seconds(self) -> float:
        """The length of every clip."""
        return self.train.seconds


@dataclass(frozen=True)
class ClipSplit:
    """Clips of any length, read one at a time.

    Attributes:
        names: one a clip.
        paths: files; empty where the clips are those of `stems`.
        rate, channels: of every clip, whatever its file has.
        stems: pieces of which each gives its mixture, then its stems.
    """

    names: Sequence[str]
    paths: Sequence[Path]
    rate: int
    channels: int
    stems: StemSplit | None = None

    def __len__(self) -> int:
        return len(self.names)

    def sound(self, index: int) -> Tensor:
        """One clip, float32 (C, T) in [-1, 1], whole."""
        if self.stems is None:
            return read_sound(self.paths[index], self.rate, self.channels).samples
        piece, part = divmod(index, len(self.names) // len(self.stems))
        stems = self.stems.stems(piece)
        return stems.sum(0).clamp(-1, 1) if part == 0 else stems[part - 1]


@dataclass(frozen=True)
class ClipDataset:
    """Sound to fit codecs on and to measure them on.

    Attributes:
        name: what the user typed.
        train, test: nothing is ever fitted or chosen on `test`.
        revision: fingerprint of every file's content, and of the split.
        description: one line for the report.
    """

    name: str
    train: ClipSplit
    test: ClipSplit
    revision: str
    description: str

    @property
    def rate(self) -> int:
        """Samples a second of every clip."""
        return self.test.rate

    @property
    def channels(self) -> int:
        """Of every clip."""
        return self.test.channels


def load_sounds(text: str) -> SoundDataset:
    """A classification data set by name: "esc10:PATH[,fold=5][,without=N]", or "folder:PATH"."""
    kind, _, argument = text.partition(":")
    return SOUND_SETS.get(kind)(argument)


def load_clips(text: str) -> ClipDataset:
    """Clips by name: any data set of this module, "ambisonic:PATH", or "folder:PATH", here without classes, too."""
    kind, _, argument = text.partition(":")
    if kind in CLIP_SETS:
        return CLIP_SETS.get(kind)(argument)
    if kind in STEM_SETS:
        return _clips_of_stems(load_stems(text))
    if kind in SOUND_SETS:
        data = load_sounds(text)
        train, test = (_clips(part.paths, data.rate, data.channels) for part in (data.train, data.test))
        return ClipDataset(text, train, test, data.revision, data.description)
    known = sorted({*CLIP_SETS.names(), *STEM_SETS.names(), *SOUND_SETS.names()})
    raise DataError(f"There is no set of sounds {text!r}: name one as {', '.join(f'{name}:PATH' for name in known)}.")


def fit_length(x: Tensor, samples: int) -> Tensor:
    """(C, T) as (C, samples): the start of a longer signal, a shorter one repeated from its start."""
    return x.repeat(1, -(-samples // x.shape[-1]))[:, :samples]


def esc10(argument: str) -> SoundDataset:
    """400 environmental recordings of 5 s, 44.1 kHz mono, in ten classes (ESC-10; Piczak, 2015; CC BY 3.0).

    A folder of class folders, "001 - Dog bark/1-30226-A.ogg", where the first number of a file's name is its fold. Test
    is fold 5, train the other four. `fold=4` tests on that one instead, and trains on the others; with `without=5`
    fold 5 stays out of both, so that choices can be made on fold 4 that have not seen the test fold.
    """
    path, options = _options(argument, ("fold", "without"))
    held, left_out = options.get("fold", 5), options.get("without")
    if held not in FOLDS or left_out not in (*FOLDS, None) or held == left_out:
        raise DataError(f"ESC-10 has the folds 1 to 5, and `without` names another than `fold`, not {argument!r}.")
    root = existing_folder(path, "esc10:PATH needs the folder of ESC-10 (001 - Dog bark, 002 - Rain, ...)")
    classes, samples = [], []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and re.match(r"\d{3} - ", entry.name)):
        for file in find_sounds(folder):
            match = _ESC_NAME.fullmatch(file.name)
            if match is None:
                raise DataError(f"{file} is not named as ESC-10 names its clips, fold-clip-take: move it away.")
            samples.append((file, len(classes), int(match[1])))
        classes.append(folder.name.partition(" - ")[2].lower())
    train = [(file, label) for file, label, fold in samples if fold not in (held, left_out)]
    test = [(file, label) for file, label, fold in samples if fold == held]
    if len(classes) < 2 or not train or not test:
        raise DataError(f"{root} is not ESC-10: it has class folders such as '001 - Dog bark' with clips of all folds.")
    return _dataset(
        f"esc10:{argument}", tuple(classes), train, test, (44100, 1, 5.0),
        f"ESC-10, fold {held} is test" + (f", fold {left_out} is left out" if left_out else ""),
    )  # fmt: skip


def folder(argument: str) -> SoundDataset:
    """One folder a class, or `train` and `test` folders of such; without them a seeded quarter of each class is test.

    The rate is that of most files, the channels those that all have (else all become mono), the length the median.
    """
    root = existing_folder(argument, "folder:PATH needs a folder of class folders")
    train, test = _split_files(root)
    classes = sorted({name for _, name in train})
    if "" in classes or any(name == "" for _, name in test):
        raise DataError(f"{root}: the sounds of a classification must lie in one folder a class.")
    if odd := sorted({name for _, name in test} ^ set(classes)):
        raise DataError(f"{root}: train and test must hold the same classes; they differ in {', '.join(odd)}.")
    if len(classes) < 2:
        raise DataError(f"{root}: a classification needs two class folders or more with sounds in train and test.")
    headers = [sound_header(file) for file, _ in train]
    seconds = float(np.median([header.seconds for header in headers]))
    number = {name: label for label, name in enumerate(classes)}
    return _dataset(
        f"folder:{argument}", tuple(classes), [(file, number[name]) for file, name in train],
        [(file, number[name]) for file, name in test], (*common_format(headers), seconds),
        f"{root.name}, {len(classes)} classes",
    )  # fmt: skip


def clip_folder(argument: str) -> ClipDataset:
    """Every sound below a folder: those in its `train` and `test`, or a seeded quarter (of each class) as test.

    Rate and channels as `folder` chooses them.
    """
    root = existing_folder(argument, "folder:PATH needs a folder of sounds")
    train, test = ([file for file, _ in part] for part in _split_files(root))
    headers = [sound_header(file) for file in (*train, *test)]
    form = common_format(headers)
    return ClipDataset(
        f"folder:{argument}", _clips(train, *form, root), _clips(test, *form, root), _revision(train, test),
        f"{root.name}, {len(headers)} sounds",
    )  # fmt: skip


def ambisonic(argument: str) -> ClipDataset:
    """First-order B-format recordings of 15 to 22 s, four channels: BF_rec1 and BF_rec3 train, BF_rec5 test."""
    root = existing_folder(argument, "ambisonic:PATH needs the folder with BF_rec1, BF_rec3 and BF_rec5")
    found = {file.stem: file for file in find_sounds(root)}
    if missing := [name for names in _BFORMAT.values() for name in names if name not in found]:
        raise DataError(f"{root} lacks the recording {missing[0]}.")
    train, test = ([found[name] for name in names] for names in _BFORMAT.values())
    headers = [sound_header(file) for file in (*train, *test)]
    if any(header.channels != 4 for header in headers):
        raise DataError(f"{root}: first-order B-format has four channels; one of its BF_rec files has not.")
    return ClipDataset(
        f"ambisonic:{argument}", _clips(train, headers[0].rate, 4), _clips(test, headers[0].rate, 4),
        _revision(train, test), "first-order B-format recordings",
    )  # fmt: skip


def _dataset(
    name: str,
    classes: tuple[str, ...],
    train: list[tuple[Path, int]],
    test: list[tuple[Path, int]],
    form: tuple[int, int, float],
    description: str,
) -> SoundDataset:
    def split(samples: list[tuple[Path, int]]) -> SoundSplit:
        return SoundSplit([file for file, _ in samples], np.array([label for _, label in samples]), *form)

    parts = split(train), split(test)
    labels = np.concatenate([part.labels for part in parts])
    revision = _revision(parts[0].paths, parts[1].paths, labels)
    return SoundDataset(name, classes, *parts, revision, description)


def _revision(train: Sequence[Path], test: Sequence[Path], labels: np.ndarray | None = None) -> str:
    # A label tells apart which split a file is in: 2 * label, and one more in test.
    labels = np.zeros(len(train) + len(test), np.int64) if labels is None else labels
    return fingerprint_files([*train, *test], (2 * labels + (np.arange(len(labels)) >= len(train))).tolist())


def _clips(paths: Sequence[Path], rate: int, channels: int, root: Path | None = None) -> ClipSplit:
    names = [path.relative_to(root).with_suffix("").as_posix() if root else path.stem for path in paths]
    return ClipSplit(names, paths, rate, channels)


def _clips_of_stems(data: StemDataset) -> ClipDataset:
    def split(part: StemSplit) -> ClipSplit:
        names = [f"{piece}/{stem}" for piece in part.names for stem in ("mixture", *data.stems)]
        return ClipSplit(names, [], data.rate, data.channels, part)

    return ClipDataset(data.name, split(data.train), split(data.test), data.revision, data.description)


def _split_files(root: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """(file, name of its class folder or "") of both splits."""
    held_out = next((name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held_out:
        return _files(root / "train"), _files(root / held_out)
    files = _files(root)
    held = stratified_split([name for _, name in files], TEST_SHARE, SPLIT_SEED)
    if not held.any():
        held[-1] = True  # so few files that a quarter is none
    pairs = list(zip(files, held, strict=True))
    return [file for file, test in pairs if not test], [file for file, test in pairs if test]


def _files(root: Path) -> list[tuple[Path, str]]:
    found = [(file, file.relative_to(root).parts) for file in find_sounds(root)]
    return [(file, parts[0] if len(parts) > 1 else "") for file, parts in found]


def _options(argument: str, known: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """ "PATH,fold=3" as the path and its whole numbers."""
    options: dict[str, int] = {}
    path = argument
    while (match := re.fullmatch(r"(.*),(\w+)=(\w*)", path)) is not None:
        path, name, value = match.groups()
        if name not in known or not value.isdigit():
            raise DataError(f"{name}={value} is no option here: there are {', '.join(known)}, each a whole number.")
        options[name] = int(value)
    return path, options
