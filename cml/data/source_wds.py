"""Sources in tar files by the convention of WebDataset: members of one key are one sample."""

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from cml.data.latent_files import open_root
from cml.data.sources import SUFFIXES, Source, listing
from cml.errors import DataError

_SPLIT = re.compile(r"(?<![a-z])(train|validation|valid|val|dev|test)(?![a-z])")
_SCALARS = (str, int, float, bool)
_BRACES = re.compile(r"\{([^{}]*)\}")


class TarSource(Source):
    """The samples of plain tar files, read by their place in the file.

        KEY.jpg + KEY.cls + KEY.json  -->  id KEY, label, and a metadata column for each scalar of the json

    The key ends at the first dot of the file name. A tar file whose name has the word train, val, valid, validation,
    dev or test belongs to that split, any other to `train`. The order is that of the tar files.

    Args:
        pattern: path or URL of tar files, with `{000..146}`, `{a,b}`, `*` and `?`.
        ndim: which members are taken.
    """

    def __init__(self, pattern: str, ndim: int):
        self._fs, _ = open_root(pattern)
        self._tars = [path for part in expand_braces(pattern) for path in self._found(part)]
        places: dict[str, list[tuple[int, int, int]]] = {}
        rows: dict[str, list[tuple[str, int | None, dict[str, Any]]]] = {}
        for number, path in enumerate(self._tars):
            match = _SPLIT.search(path.rpartition("/")[2].lower())
            split = match[1] if match else "train"
            for key, offset, size, label, facts in self._index(path, SUFFIXES[ndim]):
                places.setdefault(split, []).append((number, offset, size))
                rows.setdefault(split, []).append((key, label, facts))
        labelled = {label is not None for part in rows.values() for _, label, _ in part}
        if len(labelled) > 1:
            bare = next(key for part in rows.values() for key, label, _ in part if label is None)
            raise DataError(f"wds:{pattern}: {bare} has no .cls member, others have; label all or none.")
        names = sorted({name for part in rows.values() for _, _, facts in part for name in facts})
        columns = {name: _column([facts.get(name) for part in rows.values() for *_, facts in part]) for name in names}
        self._places = {split: np.array(part, np.int64) for split, part in places.items()}
        splits, start = {}, 0
        for split, part in rows.items():
            splits[split] = listing(
                [key for key, _, _ in part],
                np.array([label for _, label, _ in part], np.int64) if labelled == {True} else None,
                {name: column.slice(start, len(part)) for name, column in columns.items()},
            )
            start += len(part)
        super().__init__(
            name=f"wds:{pattern}",
            ndim=ndim,
            splits=splits,
            classes=None,
            sizes={split: part[:, 2] for split, part in self._places.items()},
        )

    def raw(self, split: str, index: int) -> bytes:
        number, offset, size = self._places[split][index].tolist()
        try:
            data: Any = self._fs.cat_file(self._tars[number], start=offset, end=offset + size)
        except OSError as error:
            raise DataError(f"Cannot read {self._tars[number]}: {error.strerror or error}.") from error
        if len(data) < size:
            raise DataError(f"{self._tars[number]} is cut off: fetch it again.")
        return data

    def _found(self, pattern: str) -> list[str]:
        _, path = open_root(pattern)
        found = sorted(map(str, self._fs.glob(path))) if set("*?[") & set(path) else [path]
        if not found:
            raise DataError(f"{pattern} matches no file.")
        return found

    def _index(self, path: str, suffixes: frozenset[str]) -> Iterator[tuple[str, int, int, int | None, dict[str, Any]]]:
        """(key, offset, bytes, label, facts) of each sample, in the order of the signals."""
        places: dict[str, tuple[int, int]] = {}
        labels: dict[str, int] = {}
        facts: dict[str, dict[str, Any]] = {}
        member = None
        file: Any
        try:
            with self._fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, kind = _key(member.name)
                    if not member.isreg() or key.rpartition("/")[2] == "":
                        continue
                    if f".{kind}" in suffixes:
                        if key in places:
                            raise DataError(f"{path} has two members of the key {key!r} to encode: keep one of them.")
                        places[key] = (member.offset_data, member.size)
                    elif kind == "cls":
                        labels[key] = int(_content(tar, member))
                    elif kind == "json":
                        facts[key] = _scalars(json.loads(_content(tar, member)))
        except FileNotFoundError as error:
            raise DataError(f"There is no file {path}.") from error
        except (OSError, tarfile.TarError, ValueError, AttributeError) as error:
            where = f", member {member.name}" if member is not None else ""
            raise DataError(
                f"{path}{where}: this is no whole, uncompressed tar file whose .cls members are class numbers and "
                f"whose .json members are objects ({error})."
            ) from error
        return ((key, *place, labels.get(key), facts.get(key, {})) for key, place in places.items())


def expand_braces(pattern: str) -> list[str]:
    """ "a-{00..02}.{x,y}" to the six names it stands for; numbers keep their leading zeros."""
    parts = _BRACES.split(pattern)
    choices = [[text] if number % 2 == 0 else _choices(text) for number, text in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(text: str) -> list[str]:
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not match:
        return text.split(",")
    first, last = match.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _key(name: str) -> tuple[str, str]:
    """Key and extension by WebDataset's rule: at the first dot of the last part."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _scalars(facts: dict[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in facts.items() if isinstance(value, _SCALARS)}


def _column(values: list[Any]) -> Any:
    """A column of one type, over all splits; of text where the values differ in type."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
