"""The measurements of a rate-distortion benchmark on disk: one CSV row a picture and operating point, kept for good."""

import csv
import dataclasses
import io
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from cml.errors import DataError

R = TypeVar("R")


@dataclass(frozen=True)
class Row:
    """One picture at one operating point; NaN (an empty cell of the file) is a measure that was not taken."""

    key: str
    """Content key: the picture's bytes, codec configuration and weights, operating point, measures, versions."""
    image: str
    """Path below the folder of pictures."""
    curve: str
    """The codec without the option that steers its rate: the points of one curve have one name."""
    point: str
    """The operating point, as `create_codec` takes it."""
    height: int
    width: int
    bytes: int
    """Of the whole container or file."""
    bpp: float
    """8 x bytes / pixels."""
    psnr: float
    """dB over all channels, of the reconstruction rounded to 8 bits; infinite for an equal picture."""
    ssim: float
    ms_ssim: float
    lpips_db: float
    """-10 log10 of the distance, as is dists_db."""
    dists_db: float
    encode_mps: float
    """Megapixels a second on one thread, picture to bytes: the median of a few passes."""
    decode_mps: float
    """The same, bytes to picture."""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
MEASURES = ("psnr", "ssim", "ms_ssim", "lpips_db", "dists_db")


class Rows(Generic[R]):
    """A CSV file that only grows: a row is on the disk when `append` returns, and is found again by its key.

    Args:
        path: the file.
        kind: the dataclass of a row; its fields, the first of which is `key`, are the columns.
    """

    def __init__(self, path: str | Path, kind: type[R]):
        self.path, self._kind = Path(path), kind
        self._columns = tuple(field.name for field in dataclasses.fields(kind))  # pyright: ignore[reportArgumentType]

    def read(self) -> dict[str, R]:
        """The latest row of every key; a last line that a killed process left unfinished is not one."""
        if not self.path.exists():
            return {}
        text = self._text()
        records = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        if records and tuple(records[0]) != self._columns:
            raise DataError(f"{self.path} is not a table of this version of `cml rd`; move it, or take another -o.")
        rows = {}
        for number, record in enumerate(records[1:], 2):
            try:
                row = self._parse(record)
            except ValueError as error:
                raise DataError(f"{self.path}, line {number} is no measurement ({error}); remove that line.") from error
            rows[record[0]] = row
        return rows

    def append(self, row: R) -> None:
        """Add a measurement."""
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as file:
                # A line that a killed process left unfinished must not swallow this one.
                whole = self.path.read_bytes().rfind(b"\n") + 1
                file.truncate(whole)
                if not whole:
                    writer.writerow(self._columns)
                writer.writerow("" if _is_nan(value) else value for value in dataclasses.astuple(row))  # pyright: ignore[reportArgumentType]
                file.write(line.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"Cannot write {self.path}: {error.strerror or error}.") from error

    def _text(self) -> str:
        try:
            return self.path.read_text()
        except OSError as error:
            raise DataError(f"Cannot read {self.path}: {error.strerror or error}.") from error

    def _parse(self, record: list[str]) -> R:
        if len(record) != len(self._columns):
            raise ValueError(f"{len(record)} cells instead of {len(self._columns)}")
        values: dict[str, Any] = dict(zip(self._columns, record, strict=True))
        for field in dataclasses.fields(self._kind):  # pyright: ignore[reportArgumentType]
            if field.type is int:
                values[field.name] = int(values[field.name])
            elif field.type is float:
                values[field.name] = float(values[field.name] or "nan")
        return self._kind(**values)


def summarize(rows: Iterable[Any], count: int, means: Sequence[str], medians: Sequence[str]) -> pd.DataFrame:
    """One row an operating point whose signals are all measured: means of some columns, medians of others.

    NaN, a measure that was not taken or has no value for a signal, is left out of a mean.

    Args:
        rows: with `curve`, `point`, and those columns.
        count: how many signals there are.
    """
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        groups.setdefault((row.curve, row.point), []).append(row)
    table = []
    for (curve, point), members in groups.items():
        if len(members) < count:
            continue
        entry: dict[str, object] = {"curve": curve, "point": point}
        for name in means:
            values = [value for row in members if not math.isnan(value := getattr(row, name))]
            entry[name] = statistics.fmean(values) if values else math.nan
        for name in medians:
            entry[name] = statistics.median(getattr(row, name) for row in members)
        table.append(entry)
    return pd.DataFrame(table, columns=["curve", "point", *means, *medians])


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
