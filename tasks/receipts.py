"""Whole receipts, found and read by an OCR system that people use: what codecs do to it."""

import importlib.metadata
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score
from cml.tasks.text import edit_distance
from torch import Tensor, nn
from torch.nn import functional as F

from cml.data.documents import Receipt, TextLine, load_documents
from cml.data.latents import ModelInputs, map_items
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.train.loop import TrainingTime

_COVERED = 0.5


class Receipts:
    """What stands on the page, and where? PP-OCRv4 detects and reads; nothing is trained, so nothing adapts to a codec.

        page, padded to `size` on the right and below --codec--> cut to its own size --PP-OCRv4--> boxes and texts

    The system gives whole rows where the annotation has several boxes, loses spaces, and has brackets of its own. So an
    annotated line belongs to the box that covers most of it, half at least; what the lines of a box say, from the left,
    is compared with what was read there, without spaces and case, in Unicode's NFKC. What nobody has annotated, such as
    a logo, does not count.

    Args:
        data: "sroie:PATH".
        backbone: "ppocr-v4"; None for it. (PyPI `rapidocr-onnxruntime`)
        size, epochs: must be None: pages are read as they are, and there is no training.
    """

    name = "receipts"
    version = 1
    main_score = "characters_read"
    channels = 1
    flips: tuple[str, ...] = ("none",)
    patch = 16  # says nothing here, but keys hold it
    epochs = 0
    frozen = True
    quick_size: int | None = None
    views: tuple[str, ...] = ("pixels", "reconstruction")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if size is not None or epochs is not None:
            raise CmlError("The task receipts takes no size and no epochs: its model is trained, and pages are whole.")
        if backbone not in (None, "ppocr-v4"):
            raise CmlError(f"The task receipts has the model ppocr-v4, not {backbone!r}.")
        try:
            self._version = importlib.metadata.version("rapidocr-onnxruntime")
        except importlib.metadata.PackageNotFoundError as error:
            raise CmlError("The model ppocr-v4 is a package: pip install rapidocr-onnxruntime.") from error
        self.data = load_documents(data)
        self.backbone = "ppocr-v4"
        sizes = np.array([receipt.size for receipt in self.data.test])
        self.size: tuple[int, int] = tuple(sizes.max(0).tolist())
        share = sizes.prod(1).mean() / np.prod(self.size)
        self.description = (
            f"{self.data.description}, {len(sizes)} of them test, padded to {self.size[1]}x{self.size[0]}, of which "
            f"they fill {share:.0%}"
        )
        self._loaded: list[Tensor] | None = None

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "weights": f"rapidocr-onnxruntime {self._version}",
        }

    @property
    def chance(self) -> float:
        """Of reading nothing."""
        return 0.0

    def count(self, split: str) -> int:
        return len(self.data.test) if split == "test" else 0

    def load(self, on_item: Callable[[], None]) -> None:
        if self._loaded is None:
            self._loaded = map_items(lambda index: self.signal("test", index), self.count("test"), on_item)

    def signal(self, split: str, index: int) -> Tensor:
        if self._loaded is not None:
            return self._loaded[index]
        page = self.data.test[index].page()
        below, right = (full - own for full, own in zip(self.size, page.shape[1:], strict=True))
        return F.pad(page, (0, right, 0, below), value=int(page.median()))  # of paper, mostly

    def labels(self, split: str) -> Tensor:
        """int64 (N, 2), height and width of the pages without padding; what they say is in `data`."""
        sizes = [receipt.size for receipt in self.data.test] if split == "test" else []
        return torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2)

    def normalization(self) -> tuple[Tensor, Tensor]:
        return torch.ones(1), torch.zeros(1)  # the system wants 8-bit samples

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        return self._reader, "stem"

    @cached_property
    def _reader(self) -> "PageReader":
        return PageReader()

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        raise CmlError("The model of the task receipts is trained already.")

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        assert isinstance(model, PageReader)
        pages = []
        for index, (height, width) in enumerate(inputs.labels.tolist()):
            page = inputs.batch(torch.tensor([index]))[0, 0, :height, :width]
            pages.append(model.read(page.to(torch.uint8).numpy()))
        return page_score(pages, self.data.test)


class PageReader(nn.Module):
    """PP-OCRv4 behind the face of a module. It runs in onnxruntime, where nobody counts its products."""

    def __init__(self):
        super().__init__()
        from rapidocr_onnxruntime import RapidOCR

        self.stem = nn.Identity()
        self._system = RapidOCR(intra_op_num_threads=torch.get_num_threads())

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def read(self, page: np.ndarray) -> list[TextLine]:
        """What is found on a page, uint8 (H, W), and where."""
        found, _ = self._system(np.repeat(page[..., None], 3, 2), use_cls=False)  # no page lies upside down
        corners = [(np.array(quad, float), text) for quad, text, _ in found or []]
        return [TextLine(text, (*quad.min(0).tolist(), *quad.max(0).tolist())) for quad, text in corners if text]


def page_score(pages: Sequence[Sequence[TextLine]], receipts: Sequence[Receipt]) -> Score:
    """How much of each page is read; see `Receipts` for what is compared.

    `characters_read` is 1 less the share of edits, in characters of all annotated lines; a line that no box covers is
    lost whole. `cer` is the error rate where there is a box, `lines_found` the share of lines that have one. A page's
    `outcome` is its share of the main score, so that the mean over pages is the score.
    """
    counts = np.array([_compare(found, receipt.lines) for found, receipt in zip(pages, receipts, strict=True)], float)
    edits, covered, characters, found, lines = counts.T
    lost = edits + characters - covered
    return Score(
        metrics={
            "characters_read": float(1 - lost.sum() / characters.sum()),
            "cer": float(edits.sum() / max(covered.sum(), 1)),
            "lines_found": float(found.sum() / lines.sum()),
        },
        items={"outcome": (characters - lost) / characters.mean()},
    )


def _compare(found: Sequence[TextLine], lines: Sequence[TextLine]) -> tuple[int, int, int, int, int]:
    """Edits, characters of covered lines, characters of all; covered lines, all lines."""
    under: dict[int, list[TextLine]] = {}
    for line in lines:
        shares = [_covered(line, box) for box in found]
        if shares and max(shares) >= _COVERED:
            under.setdefault(int(np.argmax(shares)), []).append(line)
    edits = covered = 0
    for number, group in under.items():
        said = _plain("".join(line.text for line in sorted(group, key=lambda line: line.box[0])))
        edits += edit_distance(_plain(found[number].text), said)
        covered += len(said)
    characters = sum(len(_plain(line.text)) for line in lines)
    return edits, covered, characters, sum(map(len, under.values())), len(lines)


def _covered(line: TextLine, by: TextLine) -> float:
    """The share of a line's box inside another's."""
    (left, top, right, bottom), (x0, y0, x1, y1) = line.box, by.box
    inside = max(0.0, min(right, x1) - max(left, x0)) * max(0.0, min(bottom, y1) - max(top, y0))
    return inside / ((right - left) * (bottom - top))


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split()).lower()
