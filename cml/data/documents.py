"""Scanned receipts with their text: `sroie:PATH`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.data.signals import find_images, read_image
from cml.errors import DataError
from cml.files import read_bytes

FIELDS = ("company", "date", "address", "total")
_TEST_NUMBERS = 10  # receipts whose number it divides are test


@dataclass(frozen=True)
class TextLine:
    """A line of text as somebody has transcribed it.

    Attributes:
        text: never empty, case as printed.
        box: (left, top, right, bottom), pixels of the stored picture: the upright box around the annotated quad.
    """

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Receipt:
    """One page.

    Attributes:
        path: its picture.
        size: (height, width) of the picture.
        lines: in the order of the annotation, roughly from the top.
        fields: the values of `FIELDS`; one that the receipt does not show is missing.
    """

    path: Path
    size: tuple[int, int]
    lines: tuple[TextLine, ...]
    fields: Mapping[str, str]

    def page(self) -> Tensor:
        """The picture, uint8 (1, H, W)."""
        page = read_image(self.path, 1)
        if tuple(page.shape[1:]) != self.size or page.dtype != torch.uint8:
            raise DataError(
                f"{self.path} is not an 8-bit picture of {self.size[1]}x{self.size[0]} as sizes.json has it; mend one."
            )
        return page


@dataclass(frozen=True)
class Documents:
    """Receipts with a fixed split.

    Attributes:
        name: what the user typed.
        train, test: nothing is ever chosen on `test`.
        revision: fingerprint of every picture, transcript and field.
        description: one line for the report.
    """

    name: str
    train: tuple[Receipt, ...]
    test: tuple[Receipt, ...]
    revision: str
    description: str

    @property
    def alphabet(self) -> str:
        """The characters of the training lines, sorted; case is kept."""
        return "".join(sorted({letter for receipt in self.train for line in receipt.lines for letter in line.text}))


def load_documents(name: str) -> Documents:
    """A data set of documents by name: "sroie:PATH"."""
    kind, _, path = name.partition(":")
    if kind != "sroie" or not path:
        raise DataError(f"Documents are --data sroie:PATH, a folder with img, box and key, not {name!r}.")
    return sroie(path)


def sroie(path: str) -> Documents:
    """Receipts of the ICDAR 2019 challenge SROIE (Huang et al., 2019).

    A folder of img/NUMBER.jpg (or another picture), box/NUMBER.csv (x1,y1,...,x4,y4,text, a line each, in pixels of the
    original scan), key/NUMBER.json (company, date, address, total) and sizes.json (NUMBER: original width and height,
    then those of the picture). Numbers divisible by ten are test.

    Raises:
        DataError: a file is missing or wrong; the sentence names it.
    """
    root = Path(path).expanduser()
    if not (root / "img").is_dir():
        raise DataError(f"sroie:PATH needs a folder with img, box, key and sizes.json; there is no {root / 'img'}.")
    pictures = {picture.stem: picture for picture in find_images(root / "img")}
    for file in sorted((root / "box").glob("*.csv")):
        if file.stem not in pictures:
            raise DataError(f"{file} has no picture: there is no {root / 'img' / file.stem}.jpg.")
    for stem, picture in pictures.items():
        if not stem.isdecimal():
            raise DataError(f"{picture} is not named by a number, which says whether it is train or test.")
    sizes = _json(root / "sizes.json")
    receipts = {stem: _receipt(root, picture, sizes) for stem, picture in pictures.items()}
    test = tuple(receipt for stem, receipt in receipts.items() if int(stem) % _TEST_NUMBERS == 0)
    train = tuple(receipt for stem, receipt in receipts.items() if int(stem) % _TEST_NUMBERS)
    if not train or not test:
        raise DataError(
            f"{root} needs train receipts, and test receipts: those with numbers divisible by {_TEST_NUMBERS}."
        )
    return Documents(
        name=f"sroie:{path}",
        train=train,
        test=test,
        revision=_fingerprint((*train, *test)),
        description=f"{root.name}, {len(receipts)} receipts",
    )


def line_image(page: Tensor, line: TextLine, size: tuple[int, int]) -> tuple[Tensor, int]:
    """A line cut from its page, scaled to the height and padded to the width with what its background is.

    Args:
        page: uint8 (1, H, W).
        line: on that page.
        size: (height, width); a line that would be longer is squeezed into the width.

    Returns:
        uint8 (1, *size), and the columns that the line takes up.
    """
    height, width = size
    columns = min(width, line_columns(line, height))
    cut = Image.fromarray(page[0].numpy()).resize((columns, height), Image.Resampling.BICUBIC, line.box)
    samples = np.asarray(cut)
    out = np.full(size, np.median(samples), np.uint8)  # most of a line is paper
    out[:, :columns] = samples
    return torch.from_numpy(out)[None], columns


def line_columns(line: TextLine, height: int) -> int:
    """The width of a line that is scaled to a height, before any squeezing."""
    left, top, right, bottom = line.box
    return max(1, round(height * (right - left) / (bottom - top)))


def _receipt(root: Path, picture: Path, sizes: Any) -> Receipt:
    stem = picture.stem
    try:
        before_w, before_h, width, height = (int(n) for n in sizes[stem])
        if min(before_w, before_h, width, height) < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{root / 'sizes.json'} must give {stem} as four positive numbers: the scan's width and height, then those "
            f"of {picture.name}."
        ) from error
    scale = np.array([width / before_w, height / before_h] * 2)
    lines = _lines(root / "box" / f"{stem}.csv", scale, (height, width))
    key = root / "key" / f"{stem}.json"
    fields = _json(key)
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name, ""), str) for name in FIELDS):
        raise DataError(f"{key} must map {', '.join(FIELDS)} to texts.")
    return Receipt(picture, (height, width), lines, {name: fields[name] for name in FIELDS if fields.get(name)})


def _lines(file: Path, scale: np.ndarray, size: tuple[int, int]) -> tuple[TextLine, ...]:
    try:
        rows = read_bytes(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text; convert it.") from error
    lines = []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        parts = row.split(",", 8)
        text = parts[8].strip() if len(parts) == 9 else ""
        if len(parts) == 9 and not text:
            raise DataError(f"{file}, line {number}, has an empty transcript; write it or drop the line.")
        try:
            x, y = np.array(parts[:8], float).reshape(4, 2).T
        except ValueError as error:
            raise DataError(f"{file}, line {number}, is not x1,y1,x2,y2,x3,y3,x4,y4,text.") from error
        box = np.array([x.min(), y.min(), x.max(), y.max()]) * scale
        left, top, right, bottom = np.clip(box, 0, [size[1], size[0]] * 2).tolist()
        if right <= left or bottom <= top:
            raise DataError(f"{file}, line {number}, has a box without area inside the picture; mend or drop the line.")
        lines.append(TextLine(text, (left, top, right, bottom)))
    if not lines:
        raise DataError(f"{file} holds no lines of text.")
    return tuple(lines)


def _json(file: Path) -> Any:
    try:
        return json.loads(read_bytes(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}.") from error


def _fingerprint(receipts: tuple[Receipt, ...]) -> str:
    digest = hashlib.sha256()
    for receipt in receipts:
        digest.update(hashlib.sha256(read_bytes(receipt.path)).digest())
        digest.update(repr((receipt.path.stem, receipt.size, receipt.lines, sorted(receipt.fields.items()))).encode())
    return digest.hexdigest()[:12]
