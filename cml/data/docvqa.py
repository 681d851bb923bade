"""Questions about scanned pages: `docvqa:PATH`."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cml.codecs.base import to_uint8
from cml.codecs.conventional import UNREADABLE, open_picture
from cml.codecs.resample import resize_image
from cml.data.latents import map_items
from cml.data.signals import read_image
from cml.errors import DataError
from cml.files import read_bytes

_FILES = "val_v*.json"
_ORIENTATION, _TURNED = 0x0112, 5  # the EXIF tag, and its first value that stands for a picture on its side


@dataclass(frozen=True)
class Question:
    """What is asked about a page.

    Attributes:
        text: the question.
        answers: one or more, each as good as the others.
    """

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Page:
    """A page with its questions.

    Attributes:
        path: the picture.
        size: (height, width) of the picture, upright.
        questions: one or more.
    """

    path: Path
    size: tuple[int, int]
    questions: tuple[Question, ...]

    def image(self, limit: int) -> Tensor:
        """The picture with its longer side at most `limit` pixels, uint8 (3, *scaled(self.size, limit))."""
        page, size = read_image(self.path, 3), scaled(self.size, limit)
        return page if self.size == size else to_uint8(resize_image(page.float() / 127.5 - 1, size))


@dataclass(frozen=True)
class AskedPages:
    """Pages with questions; all of them are test.

    Attributes:
        pages: in the order in which the questions name them.
        revision: fingerprint of every picture, question and answer.
        description: one line for the report.
    """

    pages: tuple[Page, ...]
    revision: str
    description: str


def load_docvqa(name: str) -> AskedPages:
    """The validation questions of DocVQA (Mathew et al., 2021), or others in its layout, by name: "docvqa:PATH".

    The folder holds val_v1.0.json, or val_v1.0_withQT.json, and the pictures where this says that they are:

        {"data": [{"questionId": 1, "question": "What is the date?", "image": "documents/a.png", "answers": ["3 May"]}]}

    Questions of the training split are left alone, and those of the test split have no answers.

    Raises:
        DataError: a file is missing or wrong; the sentence names it.
    """
    kind, _, path = name.partition(":")
    root = Path(path).expanduser()
    if kind != "docvqa" or not path or not root.is_dir():
        raise DataError(f"Questions about pages are --data docvqa:PATH, a folder of DocVQA's layout, not {name!r}.")
    file = next(iter(sorted(root.glob(_FILES))), None)
    if file is None:
        raise DataError(f"{root} holds no {_FILES}, the questions of DocVQA's validation split; give its folder.")
    asked: dict[str, list[Question]] = {}
    for number, entry in enumerate(_entries(file), 1):
        image, question = _question(file, number, entry)
        asked.setdefault(image, []).append(question)
    named = list(asked.items())
    sizes = map_items(lambda number: _size(root / named[number][0], file), len(named))
    pages = tuple(
        Page(root / image, size, tuple(questions)) for (image, questions), size in zip(named, sizes, strict=True)
    )
    count = sum(len(page.questions) for page in pages)
    return AskedPages(pages, _fingerprint(pages), f"{root.resolve().name}, {count} questions about {len(pages)} pages")


def scaled(size: tuple[int, int], limit: int) -> tuple[int, int]:
    """A size of the same shape whose longer side is at most `limit`."""
    height, width = size
    scale = min(1.0, limit / max(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _entries(file: Path) -> list[Any]:
    try:
        content = json.loads(read_bytes(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}.") from error
    entries = content.get("data") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{file} is not in the layout of DocVQA: it must be {{"data": [questions]}}.')
    return entries


def _question(file: Path, number: int, entry: Any) -> tuple[str, Question]:
    """The picture's name, and what is asked about it."""
    entry = entry if isinstance(entry, dict) else {}
    who = f"{file}, question {entry.get('questionId', f'number {number}')},"
    texts = [entry.get(name) for name in ("image", "question")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{who} is not in the layout of DocVQA: it needs the texts question and image, and answers.")
    answers = entry.get("answers")
    if not isinstance(answers, list) or not all(isinstance(text, str) and text.strip() for text in answers):
        raise DataError(f"{who} must have a list of texts as its answers.")
    if not answers:
        raise DataError(f"{who} has no answers; add one or drop the question.")
    image, question = map(str, texts)
    return image, Question(question, tuple(answers))


def _size(path: Path, file: Path) -> tuple[int, int]:
    """(height, width) from the header."""
    if not path.is_file():
        raise DataError(f"{path} is missing, and {file.name} asks about it; add the picture or drop its questions.")
    try:
        with open_picture(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION, 1) >= _TURNED
    except UNREADABLE as error:
        raise DataError(f"Cannot read {path} as a picture: {error}.") from error
    return (width, height) if turned else (height, width)


def _fingerprint(pages: tuple[Page, ...]) -> str:
    digest = hashlib.sha256()
    for page in pages:
        digest.update(hashlib.sha256(read_bytes(page.path)).digest())
        digest.update(repr((page.path.name, page.questions)).encode())
    return digest.hexdigest()[:12]
