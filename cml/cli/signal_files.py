"""Volumes, cubes, videos and deep pictures through `cml encode` and `cml decode`, block by block where long."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cml.errors import CmlError, CodecError, DataError

if TYPE_CHECKING:
    from torch import Tensor

CODECS = {"volume": "volume_f8c32", "cube": "hyper_f8c32", "video": "video_f8c48"}
PICTURE_CODECS = {1: "gray_f8c16", 3: "rgb_f8c48"}
"""By kind, and of pictures by channels, where no codec is named."""

_SUFFIXES = {
    "nifti": ".nii.gz", "dicom": ".nii.gz", "matlab": ".mat", "envi": ".hdr", "geotiff": ".tif",
    "exr": ".exr", "radiance": ".hdr", "tiff": ".tif", "png": ".png",
}  # fmt: skip
_BY_KIND = {"volume": ".npy", "cube": ".npy", "video": ".mkv", "picture": ".tif"}
_AXES = {"volume": (3,), "cube": (2, 3), "video": (3,), "picture": (2,)}  # of the codecs for each
_NUMBERS = 48  # bytes that the number of a block, and of all, take at most


def encode_signal(
    path: Path, target: Path, codec: str | None, bpp: float | None, max_bytes: int | None, index: int | None
) -> str:
    """Encode a file that `read_signal` reads; its facts travel in the container. Returns what to tell."""
    from cml.codecs.blocks import write_blocks
    from cml.codecs.factory import create_codec
    from cml.data.samples import replacing
    from cml.data.signal_files import open_signal

    signal = open_signal(path, index)
    facts, seen = signal.facts, _Seen()
    parts = seen.pass_on(signal)
    if codec is None and facts["kind"] == "picture":
        first = next(parts)
        codec, parts = PICTURE_CODECS[len(first)], iter([first])
    name = codec or CODECS[facts["kind"]]
    chosen: Any = create_codec(name)
    if chosen.spec.ndim not in _AXES[facts["kind"]]:
        takes = {1: "sound", 2: "pictures"}.get(chosen.spec.ndim, "signals of three axes")
        raise CmlError(f"{chosen.spec.name} takes {takes}, and {path} is a {facts['kind']}; take another codec.")
    parts = _axes_of(chosen.spec.ndim, facts["kind"], parts)
    if chosen.spec.latent_channels is None:
        parts = iter([_whole(parts)])  # the other codecs take a signal as one
    if bpp is not None or max_bytes is not None:
        length = 0 if max_bytes is None else sum(part.shape[1] for part in open_signal(path, index))
        chosen = _Searching(name, bpp, max_bytes, length, facts)
    size = 0
    with replacing(target) as written, written.open("wb") as file:
        for blob in write_blocks(chosen, parts, facts):
            size += file.write(blob)
    return f"{target}: {size} bytes, {seen.rate(facts, size)}, {chosen.spec.name}"


class _Seen:
    """What came through of a signal."""

    def __init__(self):
        self.length, self.plane, self.channels = 0, 1, 1

    def pass_on(self, parts: "Iterable[Tensor]") -> "Iterator[Tensor]":
        for part in parts:
            self.length += part.shape[1]
            self.plane, self.channels = math.prod(part.shape[2:]), len(part)
            yield part

    def rate(self, facts: Mapping[str, Any], size: int) -> str:
        """Bits a position, of video also a second, and how many times fewer than the samples of the file take."""
        import numpy as np

        positions = self.length * self.plane
        whole = positions * self.channels * np.dtype(facts["dtype"]).itemsize
        unit = "pixel" if facts["kind"] == "picture" else "voxel"
        told = f"{8 * size / positions:.3f} bits a {unit}, {whole / size:.1f}:1"
        if facts["kind"] == "video":
            told = f"{self.length} frames{per_second(facts, size, self.length)}, {told}"
        return told


def per_second(facts: Mapping[str, Any], size: int, frames: int) -> str:
    """ ", 25 frames/s, 812.1 kbit/s" of video that tells its frame rate."""
    if "frame_rate" not in facts:
        return ""
    rate = facts["frame_rate"][0] / facts["frame_rate"][1]
    return f", {rate:.6g} frames/s, {8 * size * rate / frames / 1000:.2f} kbit/s"


class _Searching:
    """A codec whose operating point is searched: that of the first block for all, or, within some bytes, of each."""

    def __init__(self, name: str, bpp: float | None, max_bytes: int | None, length: int, facts: Mapping[str, Any]):
        self._name, self._bpp, self._left, self._length = name, bpp, max_bytes, length
        self._facts, self._chosen = facts, None

    @property
    def spec(self) -> Any:
        """Of the last block's operating point."""
        assert self._chosen is not None
        return self._chosen.spec

    def compress(self, x: "Tensor") -> bytes:
        from cml.codecs.rate import fit_bytes, match_rate

        if self._left is None:
            if self._chosen is not None:
                return self._chosen.compress(x)
            self._chosen, blob = match_rate(self._name, x, self._bpp or 0)
            return blob
        several = x.dim() == 4 and x.shape[1] < self._length
        beside = _NUMBERS * several + _extra_bytes(self._facts)
        share = (self._left * x.shape[1] // self._length if several else self._left) - beside
        if share < 1:
            raise CodecError(f"{self._left} bytes are fewer than what the facts of the signal take; allow more.")
        self._chosen, blob = fit_bytes(self._name, x, share)
        self._left, self._length, self._facts = self._left - len(blob) - beside, self._length - x.shape[1], {}
        return blob


def _extra_bytes(facts: Mapping[str, Any]) -> int:
    """What facts add to a container."""
    from cml.codecs.bitstream import Container

    sizes = [len(Container("0" * 12, 0, (1, 1), 0, 8, 0, False, b"", (), told).pack()) for told in (facts, {})]
    return sizes[0] - sizes[1]


def decode_signal(path: Path, codec: str | None, target: Path, frames: tuple[int, int | None] | None) -> str:
    """Decode a file of `encode_signal`, block by block, as the file that its facts describe. Returns what to tell."""
    from cml.codecs.bitstream import Container, is_container
    from cml.codecs.blocks import read_block, scan
    from cml.codecs.factory import create_codec, identify
    from cml.data.signal_files import write_signal
    from cml.data.volumes import part_of

    with path.open("rb") as file:
        if not is_container(file.read(8)):
            raise DataError(f"{path} is no cml container.")
        found = scan(file)
        container = Container.unpack(read_block(file, found[0]))
        facts = {"kind": "volume", **container.facts}
        chosen = create_codec(codec) if codec else identify(read_block(file, found[0]))
        start, stop = _range(frames, found[-1].stop, path)
        target = _named(target, facts)

        def parts() -> "Iterator[Tensor]":
            for block in found:
                if block.stop > start and block.start < stop:
                    x = chosen.decompress(read_block(file, block))
                    yield x[:, max(start - block.start, 0) : stop - block.start]

        flat = chosen.spec.ndim == 2 and facts["kind"] != "picture"
        if frames is not None:
            if facts["kind"] not in ("volume", "video"):
                raise CmlError(f"--frames takes a part of a volume or a video; {path} is a {facts['kind']}.")
            facts = part_of(facts, start, stop)
        shape = (1, *found[0].shape) if flat else (found[0].shape[0], stop - start, *found[0].shape[2:])
        if "dtype" not in facts:
            facts["dtype"] = {8: "uint8", 16: "uint16"}.get(container.bit_depth, "float32")
        write_signal(target, (x[None] for x in parts()) if flat else parts(), facts, shape)
    size = "x".join(map(str, reversed(shape[1:])))
    return f"{target}: {facts['kind']} of {size}, {shape[0]} channel(s), {chosen.spec.name.partition(':')[0]}"


def write_frames(x: "Tensor", target: Path, name: str) -> str:
    """Write what a codec with files of its own decoded, plain streams of frames without a clock."""
    from cml.data.signal_files import write_signal

    write_signal(target, x, {"kind": "video", "dtype": "uint8", "frame_rate": [25, 1]})
    size = "x".join(map(str, reversed(x.shape[1:])))
    return f"{target}: video of {size} at 25 frames/s, as the stream tells no rate, {name.partition(':')[0]}"


def find_files(folder: Path) -> list[Path]:
    """What `cml encode` takes of a folder: its volumes, cubes and videos, or its pictures, or its sounds."""
    from cml.cli import sound_files
    from cml.data.signal_files import find_signals, kind_of

    signals = find_signals(folder)
    kinds = {kind_of(path) for path in signals}
    if kinds <= {"picture"}:  # those that are deep lie among the others
        try:
            plain = sound_files.find_files(folder)
        except DataError:
            if not signals:
                raise
            plain = []
        return sorted({*plain, *signals})
    if len(kinds) > 1:
        raise DataError(f"{folder} holds signals of several kinds ({', '.join(sorted(map(str, kinds)))}): part them.")
    return signals


def is_series(folder: Path) -> bool:
    """Whether a folder is one volume: slices of DICOM."""
    from cml.data.dicom import is_series

    return is_series(folder)


def is_encoded_signal(path: Path) -> bool:
    """Whether a file is a container for `decode_signal`: of three axes, or with the kind of a signal as a fact."""
    from cml.codecs.bitstream import is_container
    from cml.codecs.blocks import first_header
    from cml.errors import BitstreamError

    try:
        with path.open("rb") as file:
            if not is_container(file.read(8)):
                return False
            file.seek(0)
            shape, facts = first_header(file)
    except (OSError, BitstreamError):
        return False
    return len(shape) == 4 or "kind" in facts


def parse_range(text: str | None) -> tuple[int, int | None] | None:
    """ "10:20", "10:" or ":20" to a start and a stop."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not colon or not all(part.isdecimal() or not part for part in (first, last)):
        raise CmlError(f"--frames is START:STOP, such as 0:64 or 128:, not {text!r}.")
    return int(first or 0), int(last) if last else None


def _range(frames: tuple[int, int | None] | None, length: int, path: Path) -> tuple[int, int]:
    start, stop = frames or (0, None)
    stop = length if stop is None else min(stop, length)
    if not 0 <= start < stop:
        raise CmlError(f"{path} has frames or slices 0:{length}; {start}:{stop} are none of them.")
    return start, stop


def _named(target: Path, facts: Mapping[str, Any]) -> Path:
    """A file of a decoded folder, whose kind shows only in its facts."""
    if target.suffix != ".*":
        return target
    suffix = _BY_KIND[facts["kind"]] if facts["kind"] == "video" else _SUFFIXES.get(facts.get("format", ""))
    suffix = suffix or _BY_KIND.get(facts["kind"], ".npy")
    return target.with_name(target.name.removesuffix(".*") + suffix)


def _axes_of(ndim: int, kind: str, parts: "Iterator[Tensor]") -> "Iterator[Tensor]":
    """A codec of two axes takes a cube with its bands as channels."""
    return (part[0] for part in parts) if ndim == 2 and kind == "cube" else parts


def _whole(parts: "Iterable[Tensor]") -> "Tensor":
    import torch

    return torch.cat(list(parts), 1)
