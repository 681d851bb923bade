"""`cml info`: an encoded file, a latent data set or a codec, described."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cml.cli.app import console

if TYPE_CHECKING:
    from cml.codecs.architecture import WaveletConfig
    from cml.codecs.base import Codec
    from cml.codecs.bitstream import Container

_SHOWN = 10  # skipped samples
_SHORT = 100  # characters of a fact
_POSITIONS = {3: "pixel (bpp)", 4: "voxel"}


def info(
    what: Annotated[
        str, typer.Argument(help="An encoded file, a latent data set, or a codec (name, operating point, folder).")
    ],
) -> None:
    """Describe an encoded file, a latent data set (and verify it), or a codec."""
    from cml.codecs.cost import config_of
    from cml.codecs.factory import create_codec

    codec = None
    if _is_data_set(what):
        rows = _describe_data_set(what)
    elif Path(what).is_file():
        rows = _describe_file(Path(what))
    else:
        codec = create_codec(what)
        rows = _describe_codec(codec)
    view = Table(show_header=False, box=None)
    for key, value in rows.items():
        view.add_row(key, str(value))
    console.print(view, markup=False, highlight=False)
    config = None if codec is None else config_of(codec)
    if config is not None:
        console.print(_cost_table(config), highlight=False)


def _a_second(container: "Container", size: int, length: int) -> str:
    """The rate of sound whose sampling rate, or of video whose frame rate, the container tells."""
    from cml.cli.signal_files import per_second

    rate = container.facts.get("rate")
    if len(container.shape) == 4:
        return per_second(container.facts, size, length)
    if len(container.shape) != 2 or not isinstance(rate, int):
        return ""
    return f", {8 * size * rate / length / 1000:.2f} kbit/s"


def _shortly(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}... ({len(text)} characters)"


def _describe_file(path: Path) -> dict[str, object]:
    from cml.codecs.bitstream import Container, is_container
    from cml.codecs.blocks import is_sequence
    from cml.codecs.factory import identify
    from cml.files import read_bytes

    blob = read_bytes(path)
    if is_sequence(blob):
        return _describe_blocks(path, blob)
    if not is_container(blob):
        codec = identify(blob)
        x = codec.decompress(blob)
        shape = tuple(x.shape)
        return {
            "file": path, "format": codec.spec.settings.get("format"), "shape (C, H, W)": shape,
            "rate": f"{len(blob)} bytes, {8 * len(blob) / x[0].numel():.3f} bpp",
        }  # fmt: skip
    return _describe_container(path, Container.unpack(blob), len(blob))


def _describe_container(path: Path, container: "Container", size: int, length: int = 0) -> dict[str, object]:
    """Of one container, or of the first of several that have so many bytes, and the length of all, together."""
    from cml.codecs.entropy import NAMES
    from cml.codecs.factory import identify
    from cml.errors import BitstreamError

    try:
        name = identify(container.pack()).spec.name.partition(":")[0]
    except BitstreamError:
        name = "not among the bundled codecs"
    shape = (container.shape[0], length or container.shape[1], *container.shape[2:])
    rate = f"{8 * size / math.prod(shape[1:]):.3f} bits a {_POSITIONS.get(len(shape), 'sample')}"
    header = f": header {size - len(container.payload)}, payload {len(container.payload)}" if not length else ""
    return {
        "file": path,
        "codec": f"{name} ({container.codec_id})",
        "operating point": f"{container.parameter:g}",
        "shape (C, *spatial)": shape,
        "bits a sample": f"{container.bit_depth} ({'float' if container.bit_depth == 32 else 'integer'})",
        "entropy back-end": NAMES.get(container.backend, "none"),
        "symbols": "int16" if container.wide else "int8",
        "bytes": f"{size}{header}",
        "rate": rate + _a_second(container, size, shape[1]),
        **({"level": f"peak {container.level[0]:.4g}"} if container.level else {}),
        **{f"fact: {name}": _shortly(value) for name, value in container.facts.items() if name != "block"},
    }


def _describe_blocks(path: Path, blob: bytes) -> dict[str, object]:
    """Of several containers one after another; all of them are checked."""
    from cml.codecs.bitstream import Container
    from cml.codecs.blocks import blocks

    containers = [Container.unpack(part) for part in blocks(blob)]
    lengths = [container.shape[1] for container in containers]
    rows = _describe_container(path, containers[0], len(blob), sum(lengths))
    return rows | {"blocks": f"{len(lengths)} of {max(lengths)}, each decodes alone"}


def _is_data_set(what: str) -> bool:
    from cml.data.latent_files import MANIFEST

    return "://" in what or (Path(what) / MANIFEST).is_file()


def _describe_data_set(root: str) -> dict[str, object]:
    """Facts of a manifest whose shards are all as they were written."""
    from cml.data.latent_files import read_manifest, verify

    manifest = read_manifest(root)
    verify(root)
    rows: dict[str, object] = {
        "latent data set": root,
        "source": f"{manifest.source['name']}, revision {manifest.source['revision']}",
        "codec": f"{manifest.codec} ({manifest.codec_id})",
        "latents": f"{manifest.latent_channels} channels at 1/{patch_words(manifest.cell)}",
        "signals": f"{manifest.channels} channel(s), {_sides(manifest.preprocessing['size'])}",
        "classes": ", ".join(manifest.classes or ()) or "not named",
    }
    for name, split in manifest.splits.items():
        rows[f"split {name}"] = (
            f"{split.samples:,} samples in {len(split.shards)} shards, {split.bytes / 1e6:,.2f} MB of containers "
            f"(source {split.source_bytes / 1e6:,.2f} MB)"
        )
    rows["skipped"] = len(manifest.skipped)
    rows |= {f"skipped: {entry['id']}": entry["error"] for entry in manifest.skipped[:_SHOWN]}
    return rows | {"checksums": "all shards are as they were written"}


def patch_words(cell: tuple[int, ...]) -> str:
    """8 where all axes have it, else 4x8x8."""
    return "x".join(map(str, cell if len(set(cell)) > 1 else cell[:1]))


def _sides(size: list[int] | None) -> str:
    return f"resized to {size[0]}x{size[1]}" if size else "as the source has them"


def _describe_codec(codec: "Codec") -> dict[str, object]:
    from cml.codecs.neural import WaveletCodec

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
        rows |= {
            "patch F": patch_words(spec.cell),
            "latent channels": spec.latent_channels,
            "dimension reduction": f"{spec.dimension_reduction:g}",
            "encoder": config.encoder,
            "decoder": config.decoder,
            "boundary": config.boundary,
        }
        rows |= {f"made by: {key}": value for key, value in (config.provenance or {}).items()}
    return rows | {f"setting: {key}": value for key, value in spec.settings.items()}


def _cost_table(config: "WaveletConfig") -> Table:
    """What each stage costs, computed."""
    from rich.box import SIMPLE_HEAD

    from cml.codecs.cost import NOMINAL_POSITIONS, decode_costs, encode_costs

    unit = "sample" if config.ndim == 1 else "pixel" if config.ndim == 2 else "voxel"
    caption = f"computed, a {unit} with all its channels; bytes moved where each stage runs by itself"
    if config.decoder == "residual":
        caption += f"; attention over a signal of {NOMINAL_POSITIONS} {unit}s"
    view = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for name in ("stage", "MACs", "additions", "parameters", "bytes"):
        view.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for way, stages in (("encode", encode_costs(config)), ("decode", decode_costs(config))):
        for stage in stages:
            view.add_row(stage.name, *_numbers(stage.macs, stage.additions, stage.parameters, stage.bytes))
        totals = (sum(getattr(stage, key) for stage in stages) for key in ("macs", "additions", "parameters", "bytes"))
        view.add_row(way, *_numbers(*totals), end_section=True, style="bold")
    return view


def _numbers(macs: float, additions: float, parameters: float, moved: float) -> list[str]:
    return [f"{macs:,.4g}" if macs < 1e4 else f"{macs:,.0f}", f"{additions:.4g}", f"{parameters:,}", f"{moved:.3g}"]
