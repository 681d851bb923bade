"""`cml encode` and `cml decode`: a file, or a folder of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors, progress_bar
from cml.errors import CmlError


def encode(
    source: Annotated[Path, typer.Argument(help="A picture, sound, volume, cube or video, or a folder of one kind.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file, or folder, to write.")],
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec", "-c", help="Operating point, such as rgb_f8c48:step=0.5 or jpeg:quality=10 (see `cml list`)."
        ),
    ] = None,
    bpp: Annotated[float | None, typer.Option(help="Search the operating point nearest to this rate.")] = None,
    kbps: Annotated[float | None, typer.Option(help="The same in kbit/s, of sound.")] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Search the best operating point whose file is at most this large.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="Which volume of a scan that holds several, from 0.")] = None,
) -> None:
    """Encode a picture, a sound, a volume, a cube or a video, or every one of a folder, to a file each.

    Without --codec, colour goes to rgb_f8c48, grey to gray_f8c16, and sound to mono_f64c64, stereo_f64c128 or, four
    channels of B-format, foa_f32c48; volumes go to volume_f8c32, cubes to hyper_f8c32, videos to video_f8c48, the long
    ones block by block. A folder of DICOM slices is one volume. --bpp, --kbps and --max-bytes search each signal's own
    operating point: the option that steers the rate (`step`, `quality`, `rate`, `factor`) is found, others are kept.
    """
    from cml.cli.signal_files import encode_signal, find_files, is_series
    from cml.cli.sound_files import encode_sound, is_sound
    from cml.codecs.factory import create_codec
    from cml.codecs.neural import WaveletCodec
    from cml.codecs.rate import fit_bytes, match_rate
    from cml.data.signal_files import is_signal
    from cml.data.stripes import open_stripes
    from cml.files import write_atomic

    if sum(option is not None for option in (bpp, kbps, max_bytes)) > 1:
        raise CmlError("--bpp, --kbps and --max-bytes ask for different rates; give one of them.")

    def one(path: Path, target: Path) -> str:
        _spare(path, target)
        signal = is_signal(path)
        if not signal and is_sound(path):
            return encode_sound(path, target, codec, bpp, kbps, max_bytes)
        if kbps is not None:
            raise CmlError("--kbps is the rate of sound; give --bpp for the rest.")
        if signal:
            return encode_signal(path, target, codec, bpp, max_bytes, index)
        picture = open_stripes(path)
        channels, height, width = picture.shape
        name = codec or ("rgb_f8c48" if channels == 3 else "gray_f8c16")
        if bpp is not None:
            chosen, blob = match_rate(name, picture.whole(), bpp)
        elif max_bytes is not None:
            chosen, blob = fit_bytes(name, picture.whole(), max_bytes)
        else:
            chosen = create_codec(name)
            blob = (
                chosen.compress_rows(picture.rows, picture.shape, picture.dtype)
                if isinstance(chosen, WaveletCodec)
                else chosen.compress(picture.whole())
            )
        write_atomic(target, blob)
        rate = f"{8 * len(blob) / (height * width):.3f} bpp"
        rate += f", {math.prod(picture.shape) * picture.dtype.itemsize / len(blob):.1f}:1"
        return f"{target}: {len(blob)} bytes, {rate}, {chosen.spec.name}"

    if source.is_dir() and not is_series(source):
        suffix = _suffix(create_codec(codec).spec.name) if codec else ".cml"
        _each_file(source, output, find_files(source), suffix, one)
    else:
        console.print(one(source, output), markup=False, highlight=False, soft_wrap=True)


def decode(
    source: Annotated[Path, typer.Argument(help="A file of `cml encode`, or a folder of them.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The picture (.png, .tif, .bmp), sound (.wav, .flac), volume (.nii.gz, .npy), cube (.mat, .hdr), "
            "video (.mkv, .y4m, .mp4), or folder, to write.",
        ),
    ],
    codec: Annotated[
        str | None, typer.Option("--codec", "-c", help="Folder of the codec, where it is not one that comes with cml.")
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(help="Only frames START:STOP of a video, or slices of a volume; other blocks are not decoded."),
    ] = None,
) -> None:
    """Decode a file, or every file of a folder, to pictures, sounds or what else it was; the bytes tell the codec."""
    from cml.cli.signal_files import decode_signal, is_encoded_signal, parse_range, write_frames
    from cml.cli.sound_files import decode_sound
    from cml.codecs.bitstream import Container, is_container
    from cml.codecs.factory import create_codec, identify
    from cml.codecs.neural import WaveletCodec
    from cml.data.signals import write_image
    from cml.data.stripes import write_stripes
    from cml.errors import DataError
    from cml.files import read_bytes

    chosen_frames = parse_range(frames)

    def one(path: Path, target: Path) -> str:
        _spare(path, target)
        if is_encoded_signal(path):
            return decode_signal(path, codec, target, chosen_frames)
        if chosen_frames is not None:
            raise CmlError("--frames takes a part of a volume or a video.")
        blob = read_bytes(path)
        chosen = create_codec(codec) if codec else identify(blob)
        if chosen.spec.ndim == 1:
            return decode_sound(blob, codec, _named(target, ".wav"))
        if chosen.spec.ndim == 3:
            return write_frames(chosen.decompress(blob), _named(target, ".mkv"), chosen.spec.name)
        target = _named(target, ".png")
        if isinstance(chosen, WaveletCodec) and is_container(blob):
            container = Container.unpack(blob)
            shape = container.shape
            write_stripes(target, shape, container.bit_depth, chosen.decompress_rows(blob))
        else:
            x = chosen.decompress(blob)
            write_image(target, x, Container.unpack(blob).bit_depth if is_container(blob) else 8)
            shape = x.shape
        return f"{target}: {shape[2]}x{shape[1]}, {shape[0]} channel(s), {chosen.spec.name.partition(':')[0]}"

    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _ENCODED_SUFFIXES)
        if not files:
            raise DataError(f"{source} holds no encoded files ({', '.join(_ENCODED_SUFFIXES)}).")
        _each_file(source, output, files, _UNKNOWN, one)
    else:
        console.print(one(source, output), markup=False, highlight=False, soft_wrap=True)


_SUFFIXES = {
    "jpeg": ".jpg", "jpeg2000": ".j2k", "webp": ".webp", "avif": ".avif", "jpegxl": ".jxl",
    "opus": ".opus", "vorbis": ".ogg", "mp3": ".mp3", "aac": ".m4a", "flac": ".flac",
}  # fmt: skip
_ENCODED_SUFFIXES = (".cml", *_SUFFIXES.values())


_UNKNOWN = ".*"


def _suffix(name: str) -> str:
    return _SUFFIXES.get(name.partition(":")[0], ".cml")


def _named(target: Path, suffix: str) -> Path:
    """A file of a decoded folder, whose kind shows only in its bytes."""
    return target.with_suffix(suffix) if target.suffix == _UNKNOWN else target


def _spare(source: Path, target: Path) -> None:
    """Never write over what is read."""
    if target.exists() and target.samefile(source):
        raise CmlError(f"The output {target} is the input; give another name or folder.")


def _each_file(source: Path, output: Path, files: list[Path], suffix: str, one: Callable[[Path, Path], str]) -> None:
    """Apply to every file of a folder; a bad file is named and skipped, and the exit code is then 2."""
    names = [path.with_suffix("") if path.name.endswith(".nii.gz") else path for path in files]
    targets = [output / name.relative_to(source).with_suffix(suffix) for name in names]
    doubled = {target for target in targets if targets.count(target) > 1} if len(set(targets)) < len(targets) else set()
    if doubled:
        raise CmlError(
            f"Several files of {source} would become {sorted(doubled)[0]}; rename them or use separate folders."
        )
    bad = 0
    with progress_bar(len(files)) as advance:
        for path, target in zip(files, targets, strict=True):
            try:
                one(path, target)
            except CmlError as error:
                bad += 1
                errors.print(f"cml: skipped: {error}", markup=False, highlight=False, soft_wrap=True)
            advance()
    console.print(f"{len(files) - bad} of {len(files)} files written to {output}", highlight=False, soft_wrap=True)
    if bad:
        raise typer.Exit(2)
