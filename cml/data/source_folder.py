"""Sources that lie in folders: any folder of files, and the data sets that cml knows."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cml.data.datasets import load_dataset
from cml.data.sources import KINDS, SUFFIXES, Source, listing
from cml.errors import DataError

SPLITS = ("train", "val", "valid", "validation", "dev", "test")


class _File(NamedTuple):
    path: str  # below the folder, with slashes: the id
    size: int
    label: str  # name of its class folder, "" where there is none


class FolderSource(Source):
    """The files of a folder, by suffix.

        PATH/x.png             one split, `train`, without labels
        PATH/CLASS/.../x.png   `train`, labelled by the folders
        PATH/SPLIT/...         where there is a folder `train`: it and those named val, valid, validation, dev or test,
                               each of them as one of the above

    Hidden files and folders are left out. Labelled samples are listed in an order of their own, that of a hash of
    their names, so that every shard holds all classes; the rest in the order of their names.

    Args:
        path: the folder.
        ndim: which files are taken.
    """

    def __init__(self, path: str | Path, ndim: int):
        self._root = Path(path).expanduser().absolute()
        try:
            files = sorted(_walk(str(self._root), "", SUFFIXES[ndim]))
        except OSError as error:
            raise DataError(f"Cannot read {error.filename or path}: {error.strerror or error}.") from error
        splits = _by_split(files, self._root)
        classes = sorted({file.label for part in splits.values() for file in part} - {""})
        number = {name: label for label, name in enumerate(classes)} | {"": -1}
        for part in splits.values():
            if part[0].label:
                part.sort(key=lambda file: shuffled(file.path))
        super().__init__(
            name=self._root.resolve().name,
            ndim=ndim,
            splits={
                split: listing([file.path for file in part], [number[file.label] for file in part] if classes else None)
                for split, part in splits.items()
            },
            classes=tuple(classes) or None,
            sizes={split: [file.size for file in part] for split, part in splits.items()},
        )

    def raw(self, split: str, index: int) -> Path:
        return self._root / self.identify(split, index)


class SetSource(Source):
    """A data set of `cml.data.datasets`, with the splits that `cml compare` trains and tests on.

    Its revision is that of the data set: a fingerprint of every file's content.

    Args:
        text: its name, such as "elpv" or "folder:PATH".
        ndim: 2, since these data sets hold pictures.
    """

    def __init__(self, text: str, ndim: int):
        if ndim != 2:
            raise DataError(f"{text} holds pictures, and the codec takes {KINDS[ndim]}: take a codec for pictures.")
        data = load_dataset(text)
        parts = {"train": data.train, "test": data.test}
        everything = [str(path) for part in parts.values() for path in part.paths]
        base = os.path.commonpath(everything) if len(everything) > 1 else os.path.dirname(everything[0])
        self._paths, splits = {}, {}
        for split, part in parts.items():
            ids = [Path(os.path.relpath(path, base)).as_posix() for path in part.paths]
            order = sorted(range(len(ids)), key=lambda index, ids=ids: shuffled(ids[index]))
            self._paths[split] = [part.paths[index].absolute() for index in order]
            splits[split] = listing([ids[index] for index in order], part.labels[order])
        sizes = {split: [path.stat().st_size for path in paths] for split, paths in self._paths.items()}
        super().__init__(name=text, ndim=ndim, splits=splits, classes=tuple(data.classes), sizes=sizes)
        self.revision = data.revision
        self._channels = data.channels

    def raw(self, split: str, index: int) -> Path:
        return self._paths[split][index]

    def channels(self) -> int:
        return self._channels


def shuffled(name: str) -> bytes:
    """A key that sorts names into an order without meaning, the same everywhere and for ever."""
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()


def _walk(root: str, below: str, suffixes: frozenset[str]) -> Iterator[_File]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                yield from _walk(root, path, suffixes)
            elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
                yield _File(path, entry.stat().st_size, "")


def _by_split(files: list[_File], root: Path) -> dict[str, list[_File]]:
    tops = {file.path.partition("/")[0] for file in files if "/" in file.path}
    if "train" not in tops:
        return {"train": _labelled(files, "", root)} if files else {}
    parts: dict[str, list[_File]] = {split: [] for split in SPLITS if split in tops}
    for file in files:
        top = file.path.partition("/")[0]
        if top not in parts:
            raise DataError(
                f"{root} has the folder train, and {file.path} beside it belongs to no split: move it away, or "
                f"into a folder named {', '.join(SPLITS[1:])}."
            )
        parts[top].append(file)
    return {split: _labelled(part, f"{split}/", root) for split, part in parts.items()}


def _labelled(files: list[_File], prefix: str, root: Path) -> list[_File]:
    """With the names of the class folders."""
    out = []
    for file in files:
        name, slash, _ = file.path.removeprefix(prefix).partition("/")
        out.append(file._replace(label=name if slash else ""))
    loose = [file.path for file in out if not file.label]
    if loose and len(loose) < len(out):
        raise DataError(f"{root} holds files both loose ({loose[0]}) and in class folders: move the loose ones.")
    return out
