"""Video through FFmpeg, by the package PyAV: frames to the bytes of a stream in memory, and back; on one thread.

RGB is coded as BT.709 in the limited range, 4:2:0 with 8 bits, what players expect; grey with 12 bits as it is. The
conversion averages 2x2 pixels of chroma and interpolates back, all in full precision: by FFmpeg's usual flags a clip
loses 6 dB more on the way there and back, before any encoder has seen it.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cml.codecs.av_files import load_av, reason
from cml.errors import BitstreamError, CodecError

RGB, GREY_12 = "yuv420p", "gray12le"
"""Pixel formats inside: of RGB frames, and of grey ones with 12 bits."""
_PLAIN = {"fflags": "bitexact"}  # no names and versions of programs
_TASKS = Path("/proc/self/task")  # the threads of this process, on Linux
_RATE = 25  # frames a second, which a stream must name and nobody reads here
_UNREADABLE = (OSError, ValueError, EOFError, IndexError)


@dataclass(frozen=True)
class VideoFormat:
    """What FFmpeg is told.

    Attributes:
        container: its name of the file format.
        encoder: its name of the encoder.
        pixels: `RGB` or `GREY_12`.
        options: of the encoder.
        filter: of packets, between the encoder and the file; empty for none.
    """

    container: str
    encoder: str
    pixels: str
    options: Mapping[str, str]
    filter: str = ""


def load_video_av(codec: str, encoder: str) -> Any:
    """PyAV with an encoder, or one sentence on how to get them."""
    av = load_av(f"{codec} needs", "volumes")
    try:
        av.codec.Codec(encoder, "w")
    except av.FFmpegError as error:
        raise CodecError(
            f"{codec} needs the encoder {encoder}, which this build of av lacks; install its wheel: pip install -U av."
        ) from error
    os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 tells of itself at every start
    return av


def video_settings(codec: str, format: VideoFormat) -> dict[str, Any]:
    """What encodes, for a result's settings."""
    av = load_video_av(codec, format.encoder)
    colour = "BT.709, limited range, 4:2:0, 8 bits" if format.pixels == RGB else "grey, 12 bits"
    libraries = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "encoder": format.encoder, "options": dict(format.options), "stream": format.container, "colour": colour,
        "av": av.__version__, "libavcodec": libraries,
    }  # fmt: skip


def encode_video(frames: Iterable[np.ndarray], format: VideoFormat) -> bytes:
    """Frames to a stream.

    Args:
        frames: of one size; uint8 (h, w, 3) RGB with even sides, or uint16 (h, w) up to 4095 for `GREY_12`.
        format: the stream.

    Raises:
        CodecError: FFmpeg refuses, or lacks the encoder.
    """
    av, buffer = load_av("Video needs", "volumes"), io.BytesIO()
    shape: tuple[int, ...] = ()
    try:
        with av.open(buffer, "w", format=format.container, options=_PLAIN) as file:
            stream = file.add_stream(format.encoder, rate=_RATE)
            context, to_yuv = stream.codec_context, _Converter(av, format.pixels)
            context.thread_count = 1
            packets = _filter(av, format)
            for number, frame in enumerate(frames):
                if not shape:
                    shape = frame.shape
                    stream.height, stream.width, stream.pix_fmt = *shape[:2], format.pixels
                    context.options = {"flags": "bitexact"} | _options(format, *shape[:2])
                    to_yuv.tag(context)
                picture = to_yuv(np.ascontiguousarray(frame))
                picture.pts = number
                with nullcontext() if number else _usual_priorities():  # the first frame opens the encoder
                    coded = stream.encode(picture)
                file.mux(packets(coded))
            file.mux(packets(stream.encode(None)))
    except (av.FFmpegError, ValueError, KeyError, OverflowError) as error:
        raise CodecError(
            f"FFmpeg's {format.encoder} does not encode frames of {'x'.join(map(str, shape[1::-1]))}: {reason(error)}."
        ) from error
    return buffer.getvalue()


def _options(format: VideoFormat, height: int, width: int) -> dict[str, str]:
    """An encoder's options for frames of a size.

    x265 with its blocks of 64, fewer than two whole ones in a row, reads memory that it has not written: the same
    frames then give other bytes now and then. With smaller blocks they never did.
    """
    options = dict(format.options)
    if format.encoder == "libx265" and width < 128:
        options["x265-params"] += f":ctu={32 if height >= 32 else 16}"
    return options


@contextmanager
def _usual_priorities() -> Iterator[None]:
    """Threads keep the scheduling that they had, and new ones get that of this thread.

    SVT-AV1, run by root, makes the calling thread and its own real-time ones of the highest priority, for good: other
    programs on the machine, and all that this one starts later, would hardly run.
    """
    if not hasattr(os, "sched_getscheduler") or not _TASKS.is_dir():
        yield
        return

    def scheduling() -> dict[int, tuple[int, os.sched_param]]:
        found = {}
        for task in map(int, os.listdir(_TASKS)):
            with suppress(OSError):  # it has ended meanwhile
                found[task] = os.sched_getscheduler(task), os.sched_getparam(task)
        return found

    before = scheduling()
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for task, now in scheduling().items():
            if now[0] != before.get(task, usual)[0]:
                with suppress(OSError):
                    os.sched_setscheduler(task, *before.get(task, usual))


def decode_video(blob: bytes, format: VideoFormat) -> Iterator[np.ndarray]:
    """The frames of a stream in their order, as `encode_video` takes them.

    Raises:
        BitstreamError: it is no whole stream of that format.
    """
    av = load_av("Video needs", "volumes")
    try:
        with av.open(io.BytesIO(blob), "r", format=format.container) as file:
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            to_rgb = _Converter(av, format.pixels)
            for frame in file.decode(stream):
                if frame.is_corrupt or frame.format.name != format.pixels:
                    raise BitstreamError(f"A frame of the {format.container} stream is damaged or of another kind.")
                yield to_rgb.back(frame)
    except (av.FFmpegError, *_UNREADABLE) as error:
        raise BitstreamError(f"These bytes are not a whole {format.container} stream: {reason(error)}.") from error


def _filter(av: Any, format: VideoFormat) -> Any:
    if not format.filter:
        return lambda packets: packets
    context = av.bitstream.BitStreamFilterContext(format.filter, av.codec.Codec(format.encoder, "w"))
    return lambda packets: [kept for packet in packets for kept in context.filter(packet)]


class _Converter:
    """RGB to what is inside and back; grey stays as it is."""

    def __init__(self, av: Any, pixels: str):
        reformatter = av.video.reformatter
        self._av, self._pixels, self._reformat = av, pixels, reformatter.VideoReformatter().reformat
        how = reformatter.Interpolation
        exact = how.FULL_CHR_H_INT | how.FULL_CHR_H_INP | how.ACCURATE_RND
        self._down, self._up = how.AREA | exact, how.BILINEAR | exact
        self._matrix = {"src_colorspace": "ITU709", "dst_colorspace": "ITU709", "threads": 1}

    def tag(self, context: Any) -> None:
        """Say in the stream what its colours mean; all of BT.709 has the number 1, limited range too, full range 2."""
        if self._pixels == RGB:
            context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
        else:
            context.color_range = 2

    def __call__(self, samples: np.ndarray) -> Any:
        if self._pixels != RGB:
            return self._av.VideoFrame.from_ndarray(samples, self._pixels)
        frame = self._av.VideoFrame.from_ndarray(samples, "rgb24")
        ranges = {"src_color_range": "JPEG", "dst_color_range": "MPEG"}
        return self._reformat(frame, format=RGB, interpolation=self._down, **self._matrix, **ranges)

    def back(self, frame: Any) -> np.ndarray:
        if self._pixels != RGB:
            return frame.to_ndarray()
        ranges = {"src_color_range": "MPEG", "dst_color_range": "JPEG"}
        return self._reformat(frame, format="rgb24", interpolation=self._up, **self._matrix, **ranges).to_ndarray()
