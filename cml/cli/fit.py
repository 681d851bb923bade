"""`cml fit`: a codec of your own, in closed form."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cml.cli.app import console, progress_bar
from cml.errors import CmlError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Material:
    """What a codec is fitted to, and what it is like where nothing else is said.

    read: the signals of a file, one or several blocks of one.
    """

    words: str
    ndim: int
    files: list[Path]
    read: Callable[[Path], "Iterable[Tensor]"]
    channels: int
    levels: int | tuple[int, ...]
    latent_channels: int
    step: float
    level: str = "absolute"


def fit(
    source: Annotated[
        Path, typer.Argument(help="A folder of pictures, sounds, volumes, cubes or videos, with its subfolders.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The codec's folder; its path is its name.  [default: SOURCE_f8c48]"),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Latent channels.  [default: 48; of sound 16 for each of its channels, of volumes 32]"),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Wavelet levels J; the patch is 2^J samples. One number, or one an axis: 2,3,3.  "
            "[default: 3; of sound 8, of video 2,3,3]"
        ),
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Fit to luma instead of RGB.")] = False,
    bands: Annotated[
        bool,
        typer.Option(
            "--bands-as-channels",
            help="A cube is a picture with as many channels as bands: the best codec of one sensor, and of no other.",
        ),
    ] = False,
    step: Annotated[
        float | None, typer.Option(help="Default quantization step.  [default: 0.5; of sound 0.2, of volumes 0.25]")
    ] = None,
) -> None:
    """Fit a codec to signals of your own in closed form: seconds, no training."""
    from cml.codecs.fit import fit_codec
    from cml.hub import CONFIG

    chosen = _levels(levels) if levels else None
    material = _material(source, gray, bands)
    chosen = material.levels if chosen is None else chosen
    channels = channels or material.latent_channels
    step = material.step if step is None else step
    each = [chosen] * material.ndim if isinstance(chosen, int) else list(chosen)
    written = ",".join(map(str, each if len(set(each)) > 1 else each[:1]))
    if output is None:
        patch = "x".join(str(2**n) for n in (each if len(set(each)) > 1 else each[:1]))
        output = Path(f"{source.resolve().name}_{'gray_' if gray else ''}f{patch}c{channels}")
    if output.is_dir() and any(output.iterdir()) and not (output / CONFIG).exists():
        raise CmlError(f"The folder {output} holds something else; give an empty or new one with -o.")
    flags = f"{' --gray' if gray else ''}{' --bands-as-channels' if bands else ''}"
    options = f"--channels {channels} --levels {written}{flags} --step {step:g}"
    shown, data = f"cml fit {source.name} {options}", f"{source.name}, {len(material.files)} {material.words}"
    with progress_bar(len(material.files)) as advance:

        def signals():
            for path in material.files:
                yield from material.read(path)
                advance()

        codec = fit_codec(
            signals(), name=output.name, ndim=material.ndim, channels=material.channels, levels=chosen,
            latent_channels=channels, step=step, level=material.level, provenance={"data": data, "command": shown},
        )  # fmt: skip
    codec.save(output, _card(output.name, shown, data, codec.spec.name))
    console.print(
        f"{output}: {codec.spec.name}, {codec.spec.dimension_reduction:g}x dimension reduction, "
        f"fingerprint {codec.codec_id}",
        soft_wrap=True,
    )


def _levels(text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CmlError(f"--levels is one whole number, or one an axis such as 2,3,3, not {text}.") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _material(source: Path, gray: bool, bands: bool) -> _Material:
    from cml.cli.sound_files import find_files, is_sound
    from cml.data.signal_files import find_signals, kind_of, open_signal
    from cml.data.signals import read_image
    from cml.data.sound import read_sound

    deep = [path for path in find_signals(source) if kind_of(path) != "picture"] if source.is_dir() else []
    kinds = sorted({str(kind_of(path)) for path in deep})
    if bands and kinds != ["cube"]:
        raise CmlError(f"--bands-as-channels is for cubes, and {source} holds something else, or nothing.")
    if not deep:
        files = find_files(source)
        if not is_sound(files[0]):
            count = 1 if gray else 3
            return _Material("pictures", 2, files, lambda path: [read_image(path, count)], count, 3, 48, 0.5)
        _refuse_gray(gray)
        count = len(read_sound(files[0]).samples)

        def sounds(path: Path) -> "Iterable[Tensor]":
            return [read_sound(path, channels=count).samples]

        return _Material("sounds", 1, files, sounds, count, 8, 16 * count, 0.2, "peak")
    _refuse_gray(gray)
    if len(kinds) > 1:
        raise CmlError(f"{source} holds {' and '.join(f'{kind}s' for kind in kinds)}: fit a codec to one kind.")
    if bands:
        count = next(iter(open_signal(deep[0]))).shape[1]

        def pictures(path: Path) -> "Iterable[Tensor]":
            return (part[0] for part in open_signal(path))

        return _Material("cubes", 2, deep, pictures, count, 1, 12, 0.1, "peak")
    if kinds == ["video"]:
        return _Material("videos", 3, deep, open_signal, 3, (2, 3, 3), 48, 0.5)
    return _Material(f"{kinds[0]}s", 3, deep, open_signal, 1, 3, 32, 0.25, "peak")


def _refuse_gray(gray: bool) -> None:
    if gray:
        raise CmlError("--gray is for pictures; other codecs have the channels of their files.")


def _card(name: str, command: str, data: str, point: str) -> str:
    return (
        f"# {name}\n\nA linear wavelet codec of cml, fitted in closed form: the eigenvectors of the covariance of CDF "
        f"9/7 wavelet packets (see `cml/codecs/fit.py`). Default operating point `{point}`.\n\n"
        f"- data: {data}\n- recipe: `{command}`\n- training: none beyond the closed form\n"
    )
