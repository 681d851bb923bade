"""What the entropy back-ends make of the symbols of real pictures, beside the containers of the published work.

    python -m cml.eval.entropy_bench FOLDER -c rgb_f8c48:step=0.5 -c rgb_f8c12:step=0.32 -o docs/results/entropy

pictures --codec.encode--> symbols (c, h, w) --each coder--> bytes --> the same symbols, or the benchmark stops

order 0 is no coder but a bound: the entropy of each channel of each picture, its table for nothing. WebP, PNG and
JPEG-LS code pictures of eight bits: the symbols, moved to 0 ... 255, are packed into one in each of the ways of
`PACKINGS`, and the way with the fewest bytes over the whole folder counts. Rates are of the payload alone.
"""

import io
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import Image
from torch import Tensor

from cml.codecs.entropy import BACKENDS, EntropyCoder
from cml.codecs.factory import create_codec
from cml.data.signals import find_images, read_image
from cml.errors import CmlError
from cml.files import write_atomic

_LONGEST = 16383  # the longest side of a WebP picture


@dataclass(frozen=True)
class Packing:
    """A way to lay (c, h, w) symbols out as one picture: (H, W), or (H, W, 3)."""

    name: str
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    colours: int = 1


def _columns(channels: int) -> int:
    """The divisor nearest below the square root, so that a mosaic is whole."""
    return max(n for n in range(1, math.isqrt(channels) + 1) if channels % n == 0)


def _mosaic(x: np.ndarray) -> np.ndarray:
    (c, h, w), columns = x.shape, _columns(len(x))
    return x.reshape(c // columns, columns, h, w).transpose(0, 2, 1, 3).reshape(c // columns * h, columns * w)


def _from_mosaic(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    (c, h, w), columns = shape, _columns(shape[0])
    return picture.reshape(c // columns, h, columns, w).transpose(0, 2, 1, 3).reshape(shape)


def _colours(x: np.ndarray) -> np.ndarray:
    """Three channels that follow each other are red, green and blue of one tile."""
    return np.stack([_mosaic(x[k::3]) for k in range(3)], axis=-1)


def _from_colours(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    c, h, w = shape
    thirds = [_from_mosaic(np.ascontiguousarray(picture[..., k]), (c // 3, h, w)) for k in range(3)]
    return np.stack(thirds, axis=1).reshape(shape)


PACKINGS = (
    Packing("one under the other", lambda x: x.reshape(-1, x.shape[2]), lambda picture, shape: picture.reshape(shape)),
    Packing("grey mosaic", _mosaic, _from_mosaic),
    Packing("RGB mosaic", _colours, _from_colours, 3),
)


@dataclass(frozen=True)
class PictureCoder:
    """A lossless picture format as an entropy coder of int8 symbols (c, h, w).

    symbols --+128--> uint8 --packing--> picture --format--> bytes
    """

    packing: Packing
    to_bytes: Callable[[np.ndarray], bytes]
    from_bytes: Callable[[bytes], np.ndarray]

    def takes(self, symbols: np.ndarray) -> bool:
        """Whether these symbols can be packed so: int8, and not too large."""
        c, h, w = symbols.shape
        return symbols.dtype == np.int8 and c % self.packing.colours == 0 and max(c * h, w) <= _LONGEST

    def encode(self, symbols: np.ndarray) -> bytes:
        return self.to_bytes(self.packing.pack(symbols.view(np.uint8) ^ 128))

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return (self.packing.unpack(self.from_bytes(payload), shape) ^ 128).view(dtype)


def _pillow(packing: Packing, form: str, **options: Any) -> PictureCoder:
    def to_bytes(picture: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, form, **options)
        return buffer.getvalue()

    def from_bytes(blob: bytes) -> np.ndarray:
        # WebP has no grey: three equal channels, of which its green transform makes one.
        return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB" if packing.colours == 3 else "L"))

    return PictureCoder(packing, to_bytes, from_bytes)


def picture_coders() -> dict[str, list[PictureCoder]]:
    """Format -> one coder for each way of packing; JPEG-LS is left out where imagecodecs is not installed."""
    coders = {
        "png": [_pillow(packing, "PNG") for packing in PACKINGS],
        "webp": [_pillow(packing, "WEBP", lossless=True) for packing in PACKINGS],
    }
    try:
        import imagecodecs
    except ImportError:
        return coders

    def to_bytes(picture: np.ndarray) -> bytes:
        return bytes(imagecodecs.jpegls_encode(picture))

    return coders | {"jpegls": [PictureCoder(packing, to_bytes, imagecodecs.jpegls_decode) for packing in PACKINGS]}


def order_0_bytes(symbols: np.ndarray) -> float:
    """The entropy of each channel (c, *grid), summed."""
    bits = 0.0
    for plane in symbols.reshape(len(symbols), -1):
        counts = np.unique(plane, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / 8


def entropy_table(pictures: Sequence[str | Path | Tensor], codecs: Sequence[str], *, repeats: int = 3) -> pd.DataFrame:
    """Bits and speed of every coder on the symbols of pictures.

    Args:
        pictures: files, or (C, H, W) signals.
        codecs: operating points of codecs with symbols.
        repeats: passes over all pictures, of which the median time counts.

    Returns:
        A row for each operating point and coder: codec, coder, packing, bpp (bits a pixel), saving (of order 0, in
        percent), encode and decode (millions of symbols a second of one thread's own time, after warm-up; NaN for
        order 0).

    Raises:
        CmlError: there is nothing to measure, a codec has no symbols, or a coder does not give the symbols back.
    """
    if not pictures:
        raise CmlError("There are no pictures to measure.")
    rows = []
    for name in codecs:
        codec = create_codec(name)
        channels = codec.spec.channels[0]
        if codec.spec.latent_channels is None:
            raise CmlError(f"{name} has no symbols; the entropy benchmark takes neural codecs.")
        signals = (x if isinstance(x, Tensor) else read_image(x, channels) for x in pictures)
        symbols, pixels = [], 0
        for x in signals:
            symbols.append(np.ascontiguousarray(codec.encode(x).symbols.numpy()))
            pixels += x[0].numel()
        rows += [{"codec": name} | row for row in rows_of(symbols, pixels, repeats)]
    return pd.DataFrame(rows, columns=["codec", "coder", "packing", "bpp", "saving", "encode", "decode"])


def rows_of(symbols: Sequence[np.ndarray], pixels: int, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """The rows of `entropy_table` for the symbols (c, h, w) of pictures that have `pixels` pixels together."""
    bound = sum(map(order_0_bytes, symbols))
    yield {"coder": "order 0", "packing": "", "bpp": 8 * bound / pixels, "saving": 0.0}
    for name, packing, coder in _coders(symbols):
        size, encode, decode = _measure(coder, symbols, repeats)
        saving = 100 * (1 - size / bound) if bound else math.nan
        row = {"coder": name, "packing": packing, "bpp": 8 * size / pixels, "saving": saving}
        yield row | {"encode": encode, "decode": decode}


def _coders(symbols: Sequence[np.ndarray]) -> Iterator[tuple[str, str, EntropyCoder | PictureCoder]]:
    """Name, packing and coder; of each format the packing with the fewest bytes."""
    for name, coder in BACKENDS.items():
        yield name, "", coder
    for name, choices in picture_coders().items():
        able = [coder for coder in choices if all(map(coder.takes, symbols))]
        if able:
            best = min(able, key=lambda coder: sum(len(coder.encode(x)) for x in symbols))
            yield name, best.packing.name, best


def _measure(
    coder: EntropyCoder | PictureCoder, symbols: Sequence[np.ndarray], repeats: int
) -> tuple[int, float, float]:
    """Bytes, and millions of symbols a second to encode and to decode."""
    blobs = [coder.encode(x) for x in symbols]
    for blob, x in zip(blobs, symbols, strict=True):
        if not np.array_equal(coder.decode(blob, x.shape, x.dtype), x):
            raise CmlError(f"{type(coder).__name__} does not give back the symbols that it was given.")
    count = sum(x.size for x in symbols)
    encode = _median(lambda: [coder.encode(x) for x in symbols], repeats)
    decode = _median(lambda: [coder.decode(b, x.shape, x.dtype) for b, x in zip(blobs, symbols, strict=True)], repeats)
    return sum(map(len, blobs)), count / encode / 1e6, count / decode / 1e6


def _median(work: Callable[[], object], repeats: int) -> float:
    """Seconds of this thread's own time, so that what else the machine does is not counted."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return max(statistics.median(times), 1e-9)


def write(table: pd.DataFrame, out: str | Path, pictures: int) -> None:
    """Write OUT.csv and OUT.md."""
    write_atomic(f"{out}.csv", table.to_csv(index=False, float_format="%.4f"))
    write_atomic(f"{out}.md", markdown(table, pictures))


def markdown(table: pd.DataFrame, pictures: int) -> str:
    """The table for people, operating point by operating point."""
    lines = [
        "# Entropy back-ends on the symbols of pictures",
        "",
        f"{pictures} pictures, the payload alone; encode and decode in millions of symbols a second of one thread.",
        "order 0 is the entropy of each channel of each picture. PNG, WebP and JPEG-LS get the channels as one",
        "picture, in the cheapest of these ways: " + ", ".join(packing.name for packing in PACKINGS) + ".",
        "",
    ]
    for codec, rows in table.groupby("codec", sort=False):
        lines += [f"## {codec}", "", "| coder | bits a pixel | saved | encode | decode | packing |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows.to_dict("records"):
            speeds = ["" if math.isnan(row[way]) else f"{row[way]:.1f}" for way in ("encode", "decode")]
            cells = [row["coder"], f"{row['bpp']:.4f}", f"{row['saving']:.1f} %", *speeds, row["packing"]]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main(
    folder: Annotated[Path, typer.Argument(help="Pictures, searched with subfolders.")],
    codec: Annotated[list[str], typer.Option("-c", "--codec", help="An operating point, such as rgb_f8c48:step=0.5.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    repeats: Annotated[int, typer.Option(help="Passes, of which the median counts.")] = 3,
) -> None:
    """Compare entropy back-ends and lossless picture formats on the symbols of pictures."""
    files = find_images(folder)
    table = entropy_table(files, codec, repeats=repeats)
    write(table, out, len(files))
    print(markdown(table, len(files)))


if __name__ == "__main__":
    typer.run(main)
