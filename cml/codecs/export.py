"""`export_onnx`: a codec's graphs, compared with the reference and written to files."""

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import Codec
from cml.codecs.light import LightDecoder
from cml.codecs.linear import LinearDecoder
from cml.codecs.neural import WaveletCodec
from cml.codecs.onnx_graph import decoder_model, encoder_model, library
from cml.errors import CodecError
from cml.files import write_atomic

_SYMBOLS_TO_CHECK, _SAMPLES_TO_CHECK = 50_000, 2**22
# What another order of the same float32 sums may change: symbols of values close to halfway between two integers.
MOST_DIFFERENT = 1e-4
MOST_DISTANT = 1e-5
_UNCHECKED = "not compared with the reference, for which onnxruntime is needed: pip install 'cml-toolkit[export]'"


@dataclass(frozen=True)
class Exported:
    """A file of `export_onnx`.

    Attributes:
        path: where it lies.
        size: bytes.
        source, result: what goes in and what comes out: name, type and shape.
        check: what the comparison with the reference found, or why there was none.
    """

    path: Path
    size: int
    source: str
    result: str
    check: str


@torch.no_grad()
def export_onnx(codec: Codec, path: str | Path, uint8: bool = False) -> list[Exported]:
    """Write a codec's encoder to a file, and its decoder, if linear or light, beside it as `NAME.decoder.onnx`.

    Where onnxruntime is installed each is compared with the reference before anything is written.

    Args:
        codec: a wavelet codec at the operating point to export.
        path: the file of the encoder.
        uint8: the encoder takes samples in [0, 255] instead of float32 in [-1, 1].

    Raises:
        CodecError: the codec is no wavelet codec, onnx is not installed, or a graph differs from the reference.
    """
    if not isinstance(codec, WaveletCodec):
        raise CodecError(f"{codec.spec.name} is no wavelet codec: only these have an encoder to export.")
    path = Path(path)
    models = {path: encoder_model(codec, uint8)}
    if isinstance(codec.linear_decoder or codec.decoder, (LinearDecoder, LightDecoder)):
        models[path.parent / f"{path.stem}.decoder.onnx"] = decoder_model(codec)
    x = _test_signal(codec)
    as_float = x.float() / 127.5 - 1
    symbols = codec.quantize(codec.analysis(as_float))
    checks = [_check_encoder(models[path], x if uint8 else as_float, symbols)]
    checks += [_check_decoder(model, symbols, codec) for model in list(models.values())[1:]]
    written = []
    for (file, model), check in zip(models.items(), checks, strict=True):
        data = model.SerializeToString()
        write_atomic(file, data)
        written.append(Exported(file, len(data), _describe(model.graph.input), _describe(model.graph.output), check))
    return written


def _test_signal(codec: WaveletCodec) -> Tensor:
    """uint8 (1, C, *S): waves with some noise, of a size that is no multiple of the patch and gives many symbols."""
    config, cell = codec.config, codec.config.cell
    most = (_SAMPLES_TO_CHECK / config.channels / math.prod(cell)) ** (1 / config.ndim)
    wanted = (_SYMBOLS_TO_CHECK / codec.channels) ** (1 / config.ndim)
    sides = [max(2, patch * math.ceil(min(most, wanted))) - 1 for patch in cell]
    x = torch.randn(1, config.channels, *sides, generator=torch.Generator().manual_seed(0)) / 10
    for axis, side in enumerate(sides):
        wave = torch.linspace(0, 40 + 10 * axis, side).sin() / config.ndim
        x += wave.view(-1, *[1] * (config.ndim - 1 - axis))
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _run(model: Any, source: Tensor) -> np.ndarray | None:
    """The output of a model in onnxruntime, if it is installed."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: source.numpy()})[0]


def _check_encoder(model: Any, x: Tensor, symbols: Tensor) -> str:
    found = _run(model, x)
    if found is None:
        return _UNCHECKED
    distance = np.abs(found.astype(np.int64) - symbols.numpy())
    share = np.count_nonzero(distance) / distance.size
    text = f"{share:.2g} of {distance.size} symbols differ from the reference, by {distance.max()} at most"
    if distance.max() > 1 or share > MOST_DIFFERENT:
        raise CodecError(f"The exported encoder is not the codec's: {text}; at a larger step fewer do.")
    return text


def _check_decoder(model: Any, symbols: Tensor, codec: WaveletCodec) -> str:
    found = _run(model, symbols.to(torch.int16))
    if found is None:
        return _UNCHECKED
    z = torch.zeros(1, codec.config.latent_channels, *symbols.shape[2:])
    z[:, : codec.channels] = symbols * float(np.float32(codec.step))
    distance = float(np.abs(found - codec.synthesis(z, found.shape[2:]).clamp(-1, 1).numpy()).max())
    text = f"differs from the reference by {distance:.1g} at most"
    if not distance <= MOST_DISTANT:
        raise CodecError(f"The exported decoder is not the codec's: it {text}.")
    return text


def _describe(ends: Any) -> str:
    """ "symbols int16 (1, 12, grid_height, grid_width)", of a graph's only input or output."""
    kind = ends[0].type.tensor_type
    name = library("onnx").helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = ", ".join(axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim)
    return f"{ends[0].name} {name} ({shape})"
