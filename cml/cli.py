"""The command line. Every error is one sentence and exit code 2; a comparison with failed cells exits with 1."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cml.errors import CmlError

app = typer.Typer(
    help="Compressed-domain machine learning: encode once, learn from the latents, measure what a codec costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

CodecOption = Annotated[
    str | None,
    typer.Option(
        "--codec", "-c", help="Operating point, such as rgb_f8c48:step=0.5 or jpeg:quality=10 (see `cml list`)."
    ),
]


def main() -> None:
    """Entry point: errors of cml become one sentence, an interrupt becomes exit code 130."""
    try:
        app(standalone_mode=True)
    except CmlError as error:
        errors.print(f"cml: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("cml: interrupted; what is finished is kept, run the same command again to go on.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command()
def compare(
    task: Annotated[str, typer.Option(help="What the machine does.")] = "classification",
    data: Annotated[
        str, typer.Option(help="elpv, or folder:PATH (one folder a class, or train/ and test/ of them).")
    ] = "elpv",
    codecs: Annotated[
        str | None, typer.Option(help='Operating points, space-separated: "resize:factor=4 rgb_f8c12 jpeg:quality=10".')
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="Of pixels, bigpatch, resize, latent, reconstruction, space-separated.  [default: all]"),
    ] = None,
    backbone: Annotated[str, typer.Option(help="cml:small, or timm:NAME.")] = "cml:small",
    seeds: Annotated[int, typer.Option(help="Trainings per condition; three or more give a spread to trust.")] = 1,
    size: Annotated[
        int | None, typer.Option(help="Side to which pictures are resized, whole.  [default: the data's]")
    ] = None,
    patch: Annotated[int, typer.Option(help="Pixels a token along each axis.")] = 16,
    epochs: Annotated[int | None, typer.Option(help="Of each training.  [default: 8]")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small pictures, few epochs: the whole in a minute or two.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.  [default: runs/DATA]")] = None,
) -> None:
    """Compare what representations of a picture are worth to a machine, at which rate and at which cost.

    Pixels, larger patches, true downsampling, quantized latents and decoded pictures, of our codecs and of those people
    already use, through one training recipe. Finished cells are kept: run it again, or after an interruption, and only
    what is missing is computed.
    """
    from cml.eval import report
    from cml.eval.harness import compare as run

    table = run(
        task, data, codecs, views,
        backbone=backbone, seeds=seeds, size=size, patch=patch, epochs=epochs, quick=quick, out=out,
    )  # fmt: skip
    report.print_table(table, console)
    console.print(f"Report, table and pictures: {table.attrs['folder']}/report.md", highlight=False, soft_wrap=True)
    failed = table.attrs["failed"]
    for result in failed:
        errors.print(f"cml: failed: {result.view} {result.codec}, seed {result.seed}: {result.error}", markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def encode(
    source: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file, or folder, to write.")],
    codec: CodecOption = None,
) -> None:
    """Encode a picture, or every picture of a folder, to a file each.

    Without --codec, colour goes to rgb_f8c48 and grey to gray_f8c16.
    """
    from cml.codecs.factory import create_codec
    from cml.data.signals import find_images, read_image

    def one(path: Path, target: Path) -> str:
        from cml.files import write_atomic

        _spare(path, target)
        x = read_image(path)
        chosen = create_codec(codec or ("rgb_f8c48" if len(x) == 3 else "gray_f8c16"))
        blob = chosen.compress(x)
        write_atomic(target, blob)
        pixels = x[0].numel()
        bits = x.element_size() * 8 * x.numel()
        rate = f"{8 * len(blob) / pixels:.3f} bpp, {bits / 8 / len(blob):.1f}:1"
        return f"{target}: {len(blob)} bytes, {rate}, {chosen.spec.name}"

    if source.is_dir():
        suffix = _suffix(create_codec(codec).spec.name) if codec else ".cml"
        _each_file(source, output, find_images(source), suffix, one)
    else:
        console.print(one(source, output), markup=False, highlight=False, soft_wrap=True)


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(help="A file of `cml encode`, or a folder of them.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The picture (.png, .tif, .bmp), or folder, to write.")
    ],
    codec: Annotated[
        str | None, typer.Option("--codec", "-c", help="Folder of the codec, where it is not one that comes with cml.")
    ] = None,
) -> None:
    """Decode a file, or every file of a folder, to pictures; the codec is found from the bytes."""
    from cml.codecs.bitstream import Container, is_container
    from cml.codecs.factory import create_codec, identify
    from cml.data.signals import write_image
    from cml.errors import DataError
    from cml.files import read_bytes

    def one(path: Path, target: Path) -> str:
        _spare(path, target)
        blob = read_bytes(path)
        chosen = create_codec(codec) if codec else identify(blob)
        depth = Container.unpack(blob).bit_depth if is_container(blob) else 8
        x = chosen.decompress(blob)
        write_image(target, x, depth)
        return f"{target}: {x.shape[2]}x{x.shape[1]}, {len(x)} channel(s), {chosen.spec.name.partition(':')[0]}"

    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _ENCODED_SUFFIXES)
        if not files:
            raise DataError(f"{source} holds no encoded files ({', '.join(_ENCODED_SUFFIXES)}).")
        _each_file(source, output, files, ".png", one)
    else:
        console.print(one(source, output), markup=False, highlight=False, soft_wrap=True)


_SUFFIXES = {"jpeg": ".jpg", "jpeg2000": ".j2k", "webp": ".webp", "avif": ".avif"}
_ENCODED_SUFFIXES = (".cml", *_SUFFIXES.values())


def _suffix(name: str) -> str:
    return _SUFFIXES.get(name.partition(":")[0], ".cml")


def _spare(source: Path, target: Path) -> None:
    """Never write over what is read."""
    if target.exists() and target.samefile(source):
        raise CmlError(f"The output {target} is the input; give another name or folder.")


def _each_file(source: Path, output: Path, files: list[Path], suffix: str, one: Callable[[Path, Path], str]) -> None:
    """Apply to every file of a folder; a bad file is named and skipped, and the exit code is then 2."""
    targets = [output / path.relative_to(source).with_suffix(suffix) for path in files]
    doubled = {target for target in targets if targets.count(target) > 1} if len(set(targets)) < len(targets) else set()
    if doubled:
        raise CmlError(
            f"Several files of {source} would become {sorted(doubled)[0]}; rename them or use separate folders."
        )
    bad = 0
    with _bar(len(files)) as advance:
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


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors, transient=True) as bars:
        task = bars.add_task("", total=total)
        yield lambda: bars.advance(task)


@app.command()
def info(
    what: Annotated[str, typer.Argument(help="An encoded file, or a codec (name, operating point, folder).")],
) -> None:
    """Describe an encoded file or a codec."""
    from cml.codecs.factory import create_codec

    rows = _describe_file(Path(what)) if Path(what).is_file() else _describe_codec(create_codec(what))
    view = Table(show_header=False, box=None)
    for key, value in rows.items():
        view.add_row(key, str(value))
    console.print(view, markup=False, highlight=False)


def _describe_file(path: Path) -> dict[str, object]:
    from cml.codecs.bitstream import Container, is_container
    from cml.codecs.entropy import BACKENDS
    from cml.codecs.factory import identify
    from cml.errors import BitstreamError
    from cml.files import read_bytes

    blob = read_bytes(path)
    if not is_container(blob):
        codec = identify(blob)
        x = codec.decompress(blob)
        shape = tuple(x.shape)
        return {
            "file": path, "format": codec.spec.settings.get("format"), "shape (C, H, W)": shape,
            "rate": f"{len(blob)} bytes, {8 * len(blob) / x[0].numel():.3f} bpp",
        }  # fmt: skip
    container = Container.unpack(blob)
    try:
        name = identify(blob).spec.name.partition(":")[0]
    except BitstreamError:
        name = "not among the bundled codecs"
    positions = 1
    for n in container.shape[1:]:
        positions *= n
    return {
        "file": path,
        "codec": f"{name} ({container.codec_id})",
        "operating point": f"{container.parameter:g}",
        "shape (C, *spatial)": container.shape,
        "bits a sample": f"{container.bit_depth} ({'float' if container.bit_depth == 32 else 'integer'})",
        "entropy back-end": next((n for n, b in BACKENDS.items() if b.number == container.backend), "none"),
        "symbols": "int16" if container.wide else "int8",
        "bytes": f"{len(blob)}: header {len(blob) - len(container.payload)}, payload {len(container.payload)}",
        "rate": f"{8 * len(blob) / positions:.3f} bits a position (bpp)",
    }


def _describe_codec(codec: object) -> dict[str, object]:
    from cml.codecs.base import Codec
    from cml.codecs.neural import WaveletCodec

    assert isinstance(codec, Codec)
    spec = codec.spec
    channels = spec.channels if len(spec.channels) < 5 else f"{spec.channels[0]} to {spec.channels[-1]}"
    rows: dict[str, object] = {
        "codec": spec.name,
        "spatial axes": spec.ndim,
        "channels": channels,
        "fingerprint": spec.codec_id,
    }
    if isinstance(codec, WaveletCodec):
        config = codec.config
        encoder = codec.encoder_weight.numel() + codec.encoder_bias.numel()
        macs = codec.encoder_weight.numel() / 2 ** (config.ndim * config.levels)
        rows |= {
            "patch F": spec.patch,
            "latent channels": spec.latent_channels,
            "dimension reduction": f"{spec.dimension_reduction:g}",
            "encoder": f"linear, {encoder} parameters, {macs:g} MAC a position after the transform",
            "decoder": f"linear, {codec.decoder_weight.numel() + codec.decoder_bias.numel()} parameters",
            "boundary": config.boundary,
        }
        rows |= {f"made by: {key}": value for key, value in (config.provenance or {}).items()}
    return rows | {f"setting: {key}": value for key, value in spec.settings.items()}


@app.command("list")
def list_names(pattern: Annotated[str, typer.Argument(help='Shell pattern, such as "rgb_*".')] = "*") -> None:
    """List codecs, data sets, tasks, views and backbones."""
    from cml.codecs.factory import create_codec, list_codecs
    from cml.data.datasets import DATASETS
    from cml.eval.protocols import VIEWS, views_of
    from cml.models.backbones import BACKBONES
    from cml.tasks.base import TASKS

    view = Table(title="codecs")
    for column in ("name", "default operating point", "latents", "reduction", "views"):
        view.add_column(column)
    for name in list_codecs(pattern):
        codec = create_codec(name)
        spec = codec.spec
        latents = f"{spec.latent_channels} at 1/{spec.patch}" if spec.latent_channels else ""
        reduction = f"{spec.dimension_reduction:g}x" if spec.dimension_reduction else ""
        view.add_row(name, spec.name, latents, reduction, ", ".join(views_of(codec)))
    console.print(view)
    console.print("data sets: " + ", ".join(DATASETS.names()) + " (folder:PATH)", highlight=False)
    console.print("tasks: " + ", ".join(TASKS.names()), highlight=False)
    console.print("views: " + ", ".join(VIEWS), highlight=False)
    console.print("backbones: cml:small, timm:NAME (" + ", ".join(BACKBONES.names()) + ")", highlight=False)


@app.command()
def fit(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, searched with its subfolders.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The codec's folder; its path is its name.  [default: SOURCE_f8c48]"),
    ] = None,
    channels: Annotated[int, typer.Option(help="Latent channels.")] = 48,
    levels: Annotated[int, typer.Option(help="Wavelet levels J; the patch is 2^J pixels.")] = 3,
    gray: Annotated[bool, typer.Option("--gray", help="Fit to luma instead of RGB.")] = False,
    step: Annotated[float, typer.Option(help="Default quantization step.")] = 0.5,
) -> None:
    """Fit a codec to your pictures in closed form: seconds, no training."""
    from cml.codecs.fit import fit_codec
    from cml.data.signals import find_images, read_image
    from cml.hub import CONFIG

    files = find_images(source)
    if output is None:
        output = Path(f"{source.resolve().name}_{'gray_' if gray else ''}f{2**levels}c{channels}")
    if output.is_dir() and any(output.iterdir()) and not (output / CONFIG).exists():
        raise CmlError(f"The folder {output} holds something else; give an empty or new one with -o.")
    signal_channels = 1 if gray else 3
    shown = f"cml fit {source.name} --channels {channels} --levels {levels}{' --gray' if gray else ''} --step {step:g}"
    with _bar(len(files)) as advance:

        def signals():
            for path in files:
                yield read_image(path, signal_channels)
                advance()

        codec = fit_codec(
            signals(), name=output.name, ndim=2, channels=signal_channels, levels=levels, latent_channels=channels,
            step=step, provenance={"data": f"{source.name}, {len(files)} pictures", "command": shown},
        )  # fmt: skip
    codec.save(output, _card(output.name, shown, source.name, len(files), codec.spec.name))
    console.print(
        f"{output}: {codec.spec.name}, {codec.spec.dimension_reduction:g}x dimension reduction, "
        f"fingerprint {codec.codec_id}",
        soft_wrap=True,
    )


def _card(name: str, command: str, data: str, count: int, point: str) -> str:
    return (
        f"# {name}\n\nA linear wavelet codec of cml, fitted in closed form: the eigenvectors of the covariance of CDF "
        f"9/7 wavelet packets (see `cml/codecs/fit.py`). Default operating point `{point}`.\n\n"
        f"- data: {data}, {count} pictures\n- recipe: "
        f"`{command}`\n- training: none beyond the closed form\n"
    )
