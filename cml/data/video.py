"""Video as (3, t, y, x) uint8 RGB: any file that FFmpeg decodes, by PyAV, whole or some frames at a time.

    clip.mp4 --FFmpeg--> frames as coded (YUV) --matrix and range that the file tells--> RGB, blocks of frames
                  facts: frame_rate [30000, 1001], pixel_format, color_range, color_matrix, as the file has them

Frames of more than 8 bits are rounded to 8, and timestamps are dropped: a frame stands for 1 / frame_rate seconds.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.data.samples import SignalBlocks, SignalFile, load_package, replacing, restore
from cml.errors import DataError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".y4m", ".ivf", ".mpg", ".mpeg", ".ogv"})
FRAMES = 64  # of a block,
_LARGEST = 1 << 25  # pixels of one, and so fewer frames of a large picture,
_CELLS = 8  # but a multiple of this
_HIGH_DEFINITION = 720  # lines, from which untold colours are BT.709, as players have it
_BT709, _BT601, _UNTOLD = 1, 6, 2
_RANGES = {0: "unspecified", 1: "limited", 2: "full"}
_MATRICES = {
    0: "rgb", 1: "bt709", 2: "unspecified", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c",
}  # fmt: skip
_UNSTEADY = Fraction(25)  # frames a second, where a file tells none


def read_video(path: str | Path, start: int = 0, frames: int | None = None) -> SignalFile:
    """Frames of a video file, (3, t, y, x) uint8 RGB; all of them must fit in memory.

    Args:
        path: the file.
        start: the first frame taken, from 0.
        frames: how many; None for all that follow.

    Returns:
        The frames that there are, with the facts `frame_rate` [numerator, denominator], `pixel_format`, `color_range`
        and `color_matrix` as the file tells them, the `matrix_used`, which it may not tell, and of pictures to be shown
        turned or of pixels that are not square `rotation` (degrees, anticlockwise) and `pixel_aspect`.

    Raises:
        DataError: it is no video, has no frame from `start` on, or is damaged.
    """
    blocks = open_video(path, start=start, frames=frames)
    return SignalFile(torch.cat(list(blocks), 1), blocks.facts)


def open_video(path: str | Path, block: int | None = None, start: int = 0, frames: int | None = None) -> SignalBlocks:
    """The same in blocks of frames, (3, up to `block`, y, x), so that a long video is never in memory as a whole.

    Without `block` it is 64 frames, 32 of 1280x720, 16 of 1920x1080.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if start < 0 or (frames is not None and frames < 1):
        raise DataError(f"Frames are counted from 0, and at least 1 is taken: not {frames} from {start} on.")
    with _file(path) as (file, stream):
        facts = _facts(stream)
        facts["matrix_used"] = _MATRICES[_matrix(stream)]
        fitting = _LARGEST // max(1, stream.codec_context.height * stream.codec_context.width) // _CELLS * _CELLS
        block = block or min(FRAMES, max(fitting, _CELLS))
        turned = next((frame.rotation for frame in file.decode(stream)), 0)
        facts |= {"rotation": turned} if turned else {}
    pictures = islice(_pictures(path), start, None if frames is None else start + frames)
    first = _gather(pictures, block)
    if first is None:
        raise DataError(f"{path} has no frame number {start}." if start else f"{path} holds no frame.")
    held = [first]

    def each() -> Iterator[Tensor]:
        yield held.pop()
        while (part := _gather(pictures, block)) is not None:
            yield part

    return SignalBlocks(facts, each())


def write_video(path: str | Path, x: Tensor | Iterable[Tensor], facts: Mapping[str, Any]) -> None:
    """Write a video at its frame rate.

    Args:
        path: ends in .mkv (FFV1 in RGB: without loss), .y4m (8-bit YUV 4:4:4) or .mp4 (H.264 at crf 14, 4:2:0 where
            both sides are even: to be played). The latter two keep the range, and .mp4 the matrix and `pixel_aspect`.
        x: (3, t, y, x), decoded or as read; or its blocks in order.
        facts: of the reader.
    """
    path, av = Path(path), load_package("av", "Videos")
    suffix = path.suffix.lower()
    if suffix not in (".mkv", ".y4m", ".mp4"):
        raise DataError(f"Videos are written as .mkv (without loss), .y4m or .mp4, not {path.name}.")
    rate = Fraction(*facts.get("frame_rate", (_UNSTEADY.numerator, _UNSTEADY.denominator)))
    try:
        with replacing(path) as written, _Sink(av, written, suffix, rate, facts) as sink:
            for part in [x] if isinstance(x, Tensor) else x:
                if part.dim() != 4 or len(part) != 3:
                    raise DataError(f"A video is (3, t, y, x), not a signal of shape {tuple(part.shape)}.")
                for frame in range(part.shape[1]):
                    sink.add(restore(part[:, frame], {"dtype": "uint8"}))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"Cannot write {path}: {_reason(error)}.") from error


class _Sink:
    """Frames to a file, one at a time."""

    def __init__(self, av: Any, path: Path, suffix: str, rate: Fraction, facts: Mapping[str, Any]):
        self._av, self._suffix, self._rate, self._stream, self._count = av, suffix, rate, None, 0
        named = {name: number for number, name in _MATRICES.items()}
        self._matrix = named.get(facts.get("matrix_used", ""), _BT601)
        self._full = facts.get("color_range") == "full"
        self._aspect, self._turned = Fraction(*facts.get("pixel_aspect", (1, 1))), facts.get("rotation", 0)
        self._file = av.open(str(path), "w", format={".y4m": "yuv4mpegpipe", ".mkv": "matroska", ".mp4": "mp4"}[suffix])

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._file.mux(self._stream.encode(None))
        finally:
            self._file.close()

    def add(self, picture: np.ndarray) -> None:
        """A frame (3, y, x) uint8."""
        if self._stream is None:
            self._stream = self._begin(picture.shape[1], picture.shape[2])
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.transpose(1, 2, 0)), "rgb24")
        if self._suffix == ".mkv":
            frame = frame.reformat(format="bgr0")
        else:
            frame = frame.reformat(
                format=self._stream.codec_context.pix_fmt,
                dst_colorspace="ITU709" if self._matrix == _BT709 else "ITU601",
                dst_color_range="JPEG" if self._full else "MPEG",
            )
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._file.mux(self._stream.encode(frame))

    def _begin(self, height: int, width: int) -> Any:
        encoder, options = {
            ".mkv": ("ffv1", {"level": "3"}), ".y4m": ("rawvideo", {}), ".mp4": ("libx264", {"crf": "14"}),
        }[self._suffix]  # fmt: skip
        stream = self._file.add_stream(encoder, rate=self._rate, options=options)
        stream.width, stream.height = width, height
        even = height % 2 == 0 and width % 2 == 0 and self._suffix == ".mp4"
        stream.pix_fmt = "bgr0" if self._suffix == ".mkv" else "yuv420p" if even else "yuv444p"
        stream.codec_context.time_base = 1 / self._rate
        stream.codec_context.sample_aspect_ratio = self._aspect
        if self._turned and self._suffix != ".y4m":
            stream.set_display_rotation(self._turned)
        if self._suffix == ".y4m":  # which does not tell its matrix
            self._matrix = _BT709 if height >= _HIGH_DEFINITION else _BT601
        elif self._matrix not in (_BT709, _BT601):
            self._matrix = _BT601
        if self._suffix != ".mkv":
            stream.codec_context.colorspace = self._matrix
            stream.codec_context.color_range = 2 if self._full else 1
        return stream


@contextmanager
def _file(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open file and its first stream of pictures; what FFmpeg says becomes a sentence."""
    av = load_package("av", "Videos")
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise DataError(f"{path} holds no video.")
            yield file, file.streams.video[0]
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise DataError(f"Cannot read {path} as a video: {_reason(error)}.") from error


def _facts(stream: Any) -> dict[str, Any]:
    context = stream.codec_context
    rate = _exact(stream.guessed_rate or stream.average_rate or _UNSTEADY)
    facts: dict[str, Any] = {
        "kind": "video", "dtype": "uint8", "format": context.name,
        "frame_rate": [rate.numerator, rate.denominator],
        "pixel_format": str(context.pix_fmt),
        "color_range": _RANGES.get(int(context.color_range), "unspecified"),
        "color_matrix": _MATRICES.get(int(context.colorspace), str(int(context.colorspace))),
    }  # fmt: skip
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        facts["pixel_aspect"] = [aspect.numerator, aspect.denominator]
    return facts


def _exact(rate: Fraction) -> Fraction:
    """60000/1001 where Matroska, which counts nanoseconds, gives 19001/317."""
    broadcast = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return broadcast if broadcast and abs(rate / broadcast - 1) < Fraction(1, 10**6) else rate


def _matrix(stream: Any) -> int:
    told = int(stream.codec_context.colorspace)
    if told != _UNTOLD:
        return told if told in _MATRICES else _BT601
    return _BT709 if stream.codec_context.height >= _HIGH_DEFINITION else _BT601


def _pictures(path: Path) -> Iterator[np.ndarray]:
    """(3, y, x) uint8, one after another."""
    with _file(path) as (file, stream):
        stream.thread_type = "AUTO"
        untold = int(stream.codec_context.colorspace) == _UNTOLD
        matrix, size = _matrix(stream), None
        for frame in file.decode(stream):
            if untold and not frame.format.is_rgb:
                frame.colorspace = matrix
            picture = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
            size = size or picture.shape
            if picture.shape != size:
                raise DataError(f"{path} changes its size from {size[1:]} to {picture.shape[1:]}; make it one size.")
            yield picture


def _gather(pictures: Iterator[np.ndarray], block: int) -> Tensor | None:
    """Up to `block` pictures as (3, n, y, x); None at the end."""
    taken = 0
    out: Tensor | None = None
    for picture in islice(pictures, block):
        if out is None:
            out = torch.empty((3, block, *picture.shape[1:]), dtype=torch.uint8)
        out[:, taken] = torch.from_numpy(picture)
        taken += 1
    if out is None or taken == block:
        return out
    return out[:, :taken].clone()  # without the room for more


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")


def has_pictures(path: str | Path) -> bool:
    """Whether a file is a video, and not sound alone, or sound with the picture of a cover; True where nobody knows."""
    try:
        with _file(Path(path)) as (_, stream):
            return not stream.disposition & 0x400  # an attached picture
    except DataError as error:
        return "holds no video" not in str(error)
