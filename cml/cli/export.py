"""`cml export`: a codec as ONNX graphs, for runtimes that know nothing of cml."""

from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console


def export(
    codec: Annotated[str, typer.Argument(help="Codec at the operating point to export, such as rgb_f8c12:step=0.5.")],
    onnx: Annotated[Path, typer.Option("--onnx", help="The file of the encoder.")],
    uint8: Annotated[
        bool, typer.Option("--uint8", help="The encoder takes samples in [0, 255] instead of float32 in [-1, 1].")
    ] = False,
) -> None:
    """Export a codec's encoder, signal in and symbols out, as an ONNX graph for every size of signal.

    A decoder that is linear or light is written beside it, as NAME.decoder.onnx. Where onnxruntime is installed, both
    are compared with cml's own first.
    """
    from cml.codecs.export import export_onnx
    from cml.codecs.factory import create_codec

    for file in export_onnx(create_codec(codec), onnx, uint8):
        text = f"{file.path}: {file.size} bytes, {file.source} -> {file.result}; {file.check}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
