"""`cml info`: an encoded file or a codec, described."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cml.cli.app import console


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
        encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in (codec.encoder, codec.decoder))
        # Each weight of a convolution on the grid of latents is used once a position of that grid.
        macs = sum(p.numel() for p in codec.encoder.parameters() if p.dim() > 1) / 2 ** (config.ndim * config.levels)
        rows |= {
            "patch F": spec.patch,
            "latent channels": spec.latent_channels,
            "dimension reduction": f"{spec.dimension_reduction:g}",
            "encoder": f"{config.encoder}, {encoder} parameters, {macs:g} MAC a position after the transform",
            "decoder": f"{config.decoder}, {decoder} parameters",
            "boundary": config.boundary,
        }
        rows |= {f"made by: {key}": value for key, value in (config.provenance or {}).items()}
    return rows | {f"setting: {key}": value for key, value in spec.settings.items()}
