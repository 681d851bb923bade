"""Codecs as ONNX graphs: signals to symbols on whatever a sensor runs, and symbols back to signals.

    encoder   signal (1, C, *S) --packets--> encoder --compand, / step, round--> symbols int16 (1, channels, *grid)
    decoder   symbols --* step, expand--> decoder --inverse packets--> signal float32 (1, C, *(F grid)) in [-1, 1]

Spatial sizes are dynamic, every size >= 1 is right, and the operators are those of opset 17. The decoder's signal is
not cropped: its first samples along each axis are the signal, whose size the symbols do not tell. Symbols are int16 at
every operating point, since the type of a graph cannot follow its data; a container holds them as int8 where they fit.
Past 16 bits, where cml refuses, the graph saturates.
"""

import importlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cml
from cml.codecs import wavelet
from cml.codecs.factorized import OFFSET, POWER, SCALE, FactorizedConv, FactorizedEncoder, FactorizedResBlock
from cml.codecs.layers import GroupNorm
from cml.codecs.light import LightBlock, LightDecoder
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.neural import WaveletCodec
from cml.codecs.quantize import GaussianCdf, LaplaceCdf
from cml.codecs.rdo import LARGEST, LEAST
from cml.errors import CodecError

# Of ONNX 1.12 (2022), with the file format that came with it: the runtimes in the field read both.
_OPSET, _IR_VERSION = 17, 8
_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_PEAK = 2**15 - 1


class _Graph:
    """Nodes and constants as they are added: `graph("Add", x, 1.0)` is the name of the sum."""

    def __init__(self) -> None:
        self.onnx = library("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        output = f"{operator.lower()}_{len(self.nodes)}"
        names = [item if isinstance(item, str) else self._constant(item) for item in inputs]
        self.nodes.append(self.onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def _constant(self, value: Any) -> str:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
        array = np.array(array, np.float32 if array.dtype.kind == "f" else np.int64, order="C")
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def sizes(self, x: str, ndim: int) -> list[str]:
        """The spatial sizes of a tensor, a scalar each."""
        shape = self("Shape", x)
        return [self("Gather", shape, 2 + axis) for axis in range(ndim)]

    def reshape(self, x: str, *shape: int | str) -> str:
        parts = [self("Reshape", n, [1]) if isinstance(n, str) else [n] for n in shape]
        return self("Reshape", x, self("Concat", *parts, axis=0))

    def model(self, codec: WaveletCodec, source: tuple, result: tuple, text: str) -> Any:
        """The finished model; source and result are (name, element type, shape), the result that of the last node."""
        helper = self.onnx.helper
        self.nodes.append(helper.make_node("Identity", [self.nodes[-1].output[0]], [result[0]]))
        graph = helper.make_graph(
            self.nodes,
            f"{source[0]}_to_{result[0]}",
            [helper.make_tensor_value_info(*source)],
            [helper.make_tensor_value_info(*result)],
            self.constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="cml",
            producer_version=cml.__version__,
            doc_string=text,
        )
        spec = codec.spec
        facts = {
            "codec": spec.name,
            "codec_id": spec.codec_id,
            "step": float(np.float32(codec.step)),
            "channels": codec.channels,
            "patch": "x".join(map(str, spec.axis_patches)) or spec.patch,
            "cml_version": cml.__version__,
        }
        helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
        return model


def encoder_model(codec: WaveletCodec, uint8: bool = False) -> Any:
    """The `onnx.ModelProto` that makes the symbols of a codec at its operating point.

    Input `signal` (1, C, *S), float32 in [-1, 1], or uint8 in [0, 255]; output `symbols` int16 (1, channels, *grid).

    Raises:
        CodecError: onnx is not installed.
    """
    graph = _Graph()
    types = graph.onnx.TensorProto
    axes = _AXES[codec.config.ndim]
    x = "signal"
    if uint8:
        x = graph("Sub", graph("Div", graph("Cast", x, to=types.FLOAT), 127.5), 1.0)
    y = _encode(graph, codec, _analysis(graph, x, codec))
    symbols = graph("Clip", _round(graph, graph("Div", y, codec.step), codec.rdo, len(axes)), -1.0 * _PEAK, 1.0 * _PEAK)
    graph("Cast", symbols, to=types.INT16)
    return graph.model(
        codec,
        ("signal", types.UINT8 if uint8 else types.FLOAT, [1, codec.config.channels, *axes]),
        ("symbols", types.INT16, [1, codec.channels, *(f"grid_{axis}" for axis in axes)]),
        f"Encoder of a cml codec. signal: {'0 to 255' if uint8 else '-1 to 1'}, any size. symbols: a container holds "
        "them as int8 where all fit.",
    )


def decoder_model(codec: WaveletCodec) -> Any:
    """The `onnx.ModelProto` from `symbols` int16 (1, channels, *grid) to `signal` float32 (1, C, *(F grid)) in [-1, 1].

    Raises:
        CodecError: the decoder is neither linear nor light, or onnx is not installed.
    """
    graph = _Graph()
    types = graph.onnx.TensorProto
    axes = _AXES[codec.config.ndim]
    packets = _decode(graph, codec, _expand(graph, codec))
    graph("Clip", _synthesis(graph, packets, codec), -1.0, 1.0)
    return graph.model(
        codec,
        ("symbols", types.INT16, [1, codec.channels, *(f"grid_{axis}" for axis in axes)]),
        ("signal", types.FLOAT, [1, codec.config.channels, *axes]),
        "Decoder of a cml codec. signal: -1 to 1, not cropped: patch samples for each symbol along each axis, of which "
        "the first are those of the encoded signal.",
    )


def _analysis(graph: _Graph, x: str, codec: WaveletCodec) -> str:
    """Wavelet packets: a level is one strided convolution an axis, whose outputs come in the order of the bands."""
    config = codec.config
    channels = config.channels
    sizes = graph.sizes(x, config.ndim)
    whole = [
        graph("Mul", graph("Div", graph("Add", size, patch - 1), patch), patch)
        for size, patch in zip(sizes, config.cell, strict=True)
    ]
    for axes in wavelet.rounds(config.levels, config.ndim):
        for axis in reversed(axes):
            x = _filter(graph, x, channels, axis, (sizes[axis], whole[axis]), codec, inverse=False)
            channels *= 2
        sizes = whole = [graph("Div", n, 2) if axis in axes else n for axis, n in enumerate(whole)]
    return x


def _synthesis(graph: _Graph, x: str, codec: WaveletCodec) -> str:
    """The inverse, by convolutions over low and high samples side by side, as the lifting has them."""
    config = codec.config
    channels = config.packet_channels
    sizes = graph.sizes(x, config.ndim)
    for axes in reversed(wavelet.rounds(config.levels, config.ndim)):
        for axis in axes:
            channels //= 2
            x = _interleave(graph, x, channels, axis, sizes)
            whole = graph("Mul", sizes[axis], 2)
            x = _filter(graph, x, channels, axis, (whole, whole), codec, inverse=True)
            x = _interleave(graph, x, channels, axis, sizes)
            sizes = [*sizes[:axis], whole, *sizes[axis + 1 :]]
    return x


def _interleave(graph: _Graph, x: str, channels: int, axis: int, sizes: list[str]) -> str:
    """(1, 2 channels, *sizes), channels in pairs, to twice the size along an axis, the two of a pair side by side."""
    order = [0, 1, *range(3, 3 + len(sizes))]
    order.insert(3 + axis, 2)
    x = graph("Transpose", graph.reshape(x, 1, channels, 2, *sizes), perm=order)
    doubled: list[int | str] = [*sizes]
    doubled[axis] = graph("Mul", sizes[axis], 2)
    return graph.reshape(x, 1, channels, *doubled)


def _filter(
    graph: _Graph, x: str, channels: int, axis: int, lengths: tuple[str, str], codec: WaveletCodec, inverse: bool
) -> str:
    """One level along one axis, every channel to a pair of half the size.

    The lifting, seen whole: two filters of nine taps over the signal, mirrored (or repeated) past its ends as often as
    it is too short. `lengths` are the samples of x and those with its last one repeated up to the multiple.
    """
    size, whole = lengths
    taps, before, after = _taps(inverse)
    last = graph("Sub", whole, 1)

    def beyond(start: Any, stop: Any) -> str:
        index = graph("Range", start, stop, 1)
        if codec.config.boundary == "symmetric":
            index = graph("Sub", graph("Mod", index, graph("Mul", last, 2)), last)
            index = graph("Sub", last, graph("Abs", index))
        else:
            index = graph("Mod", index, whole)
        return graph("Gather", x, graph("Min", index, graph("Sub", size, 1)), axis=2 + axis)

    x = graph("Concat", beyond(-before, 0), x, beyond(size, graph("Add", whole, after)), axis=2 + axis)
    kernel, strides = ([n if i == axis else 1 for i in range(codec.config.ndim)] for n in (taps.shape[1], 2))
    weight = np.tile(taps.reshape(2, 1, *kernel), (channels, *[1] * (codec.config.ndim + 1)))
    return graph("Conv", x, weight, group=channels, kernel_shape=kernel, strides=strides)


def _taps(inverse: bool) -> tuple[np.ndarray, int, int]:
    """The response (2, 9) of one level of the lifting, read off its middle, and its reach past either end.

    Forward from samples to low and high; back from low and high, side by side, to the even and odd sample.
    """
    n, at = 32, 16
    unit = torch.eye(n, dtype=torch.float64)
    if inverse:
        response = wavelet.synthesis(unit.unflatten(1, (-1, 2)).transpose(1, 2), 1, (n,))[:, 0, at : at + 2]
        return response[at - 3 : at + 6].T.numpy(), 3, 4
    response = wavelet.analysis(unit[:, None], 1)[:, :, at // 2]
    return response[at - 4 : at + 5].T.numpy(), 4, 3


def _encode(graph: _Graph, codec: WaveletCodec, packets: str) -> str:
    """Packets to the channels that are sent, companded."""
    encoder, sent = codec.encoder, codec.channels
    if isinstance(encoder, LinearEncoder):
        y = _project(graph, packets, encoder.weight[:sent], encoder.bias[:sent], codec.config.ndim)
    else:
        assert isinstance(encoder, FactorizedEncoder)
        grid = graph.sizes(packets, codec.config.ndim)
        y = _factorized(graph, encoder, graph.reshape(packets, 1, codec.config.packet_channels, -1))
        y = graph.reshape(graph("Slice", y, [0], [sent], [1]), 1, sent, *grid)
    quantizer = codec.quantizer
    if isinstance(quantizer, GaussianCdf):
        return graph("Mul", graph("Erf", graph("Div", y, quantizer.scale * math.sqrt(2))), quantizer.limit)
    if isinstance(quantizer, LaplaceCdf):
        magnitude = graph("Sub", 1.0, graph("Exp", graph("Neg", graph("Div", graph("Abs", y), _width(codec)))))
        return graph("Mul", graph("Mul", graph("Sign", y), magnitude), 127.0)
    return y


def _project(graph: _Graph, x: str, weight: Tensor, bias: Tensor, ndim: int) -> str:
    return graph("Conv", x, weight[(..., *[None] * ndim)], bias, kernel_shape=[1] * ndim)


def _factorized(graph: _Graph, encoder: FactorizedEncoder, x: str) -> str:
    """LiVeAction's encoder on (1, P, positions): it works within each position, so that the grid does not matter."""

    def convolve(part: FactorizedConv, x: str) -> str:
        for number, conv in enumerate((part.conv1, part.conv2)):
            if number:
                shuffled = graph("Transpose", graph.reshape(x, 1, *part.groups, -1), perm=[0, 2, 1, 3])
                x = graph.reshape(shuffled, 1, math.prod(part.groups), -1)
            extra = () if conv.bias is None else (conv.bias,)
            x = graph("Conv", x, conv.weight.flatten(2), *extra, group=conv.groups, kernel_shape=[1])
        return x

    def norm(part: GroupNorm, x: str) -> str:
        ones = torch.ones(part.num_groups)
        x = graph.reshape(x, 1, part.num_groups, -1)
        x = graph("InstanceNormalization", x, ones, 0 * ones, epsilon=part.eps)
        x = graph.reshape(x, 1, part.num_channels, -1)
        return graph("Add", graph("Mul", x, part.weight[:, None]), part.bias[:, None])

    def gelu(x: str) -> str:
        cubic = graph("Mul", graph("Mul", x, x), graph("Mul", x, 0.044715))
        inner = graph("Tanh", graph("Mul", graph("Add", x, cubic), math.sqrt(2 / math.pi)))
        return graph("Mul", graph("Mul", x, 0.5), graph("Add", inner, 1.0))

    x = graph("Gather", x, encoder.order, axis=1)
    power = graph("Sub", graph("Pow", graph("Add", graph("Abs", x), OFFSET), POWER), OFFSET**POWER)
    x = graph("Mul", graph("Mul", graph("Sign", x), SCALE), power)
    for block in encoder.blocks:
        assert isinstance(block, FactorizedResBlock)
        h = gelu(norm(block.norm1, convolve(block.conv1, x)))
        h = norm(block.norm2, convolve(block.conv2, h))
        squeeze = block.squeeze_excite
        gate = convolve(squeeze.expand, gelu(convolve(squeeze.reduce, graph("GlobalAveragePool", h))))
        x = graph("Add", x, graph("Mul", h, graph("Sigmoid", gate)))
    return convolve(encoder.down, x)


def _round(graph: _Graph, v: str, strength: float, ndim: int) -> str:
    """`rdo_round`."""
    if strength == 0:
        return graph("Round", v)
    magnitude = graph("Abs", v)
    around = graph("AveragePool", magnitude, kernel_shape=[3] * ndim, pads=[1] * 2 * ndim, count_include_pad=0)
    threshold = graph("Min", graph("Div", strength / 12, graph("Max", around, LEAST)), LARGEST)
    rounded = graph("Floor", graph("Sub", graph("Add", magnitude, 0.5), threshold))
    return graph("Mul", rounded, graph("Sign", v))


def _width(codec: WaveletCodec) -> Tensor:
    """Widths of the Laplacians, of the channels that are sent."""
    assert isinstance(codec.quantizer, LaplaceCdf)
    return codec.quantizer.sigma.clamp(min=1e-6)[: codec.channels].view(-1, *[1] * codec.config.ndim)


def _expand(graph: _Graph, codec: WaveletCodec) -> str:
    """Symbols to what the decoder reads, without the channels that were not sent."""
    quantizer, types = codec.quantizer, graph.onnx.TensorProto
    step = float(np.float32(codec.step))
    if isinstance(quantizer, GaussianCdf):
        # ONNX has no inverse error function, but symbols are integers: a table holds what each of them expands to, up
        # to where `expand` clips.
        last = min(math.ceil(quantizer.limit / step), _PEAK)
        table = quantizer.expand(torch.arange(-last, last + 1) * step)
        index = graph("Max", graph("Min", graph("Cast", "symbols", to=types.INT64), last), -last)
        return graph("Gather", table, graph("Add", index, last))
    v = graph("Mul", graph("Cast", "symbols", to=types.FLOAT), step)
    if isinstance(quantizer, LaplaceCdf) and quantizer.invert:
        share = graph("Min", graph("Div", graph("Abs", v), 127.0), 126 / 127)
        magnitude = graph("Mul", graph("Neg", graph("Log", graph("Sub", 1.0, share))), _width(codec))
        return graph("Mul", graph("Sign", v), magnitude)
    return v


def _decode(graph: _Graph, codec: WaveletCodec, z: str) -> str:
    """Latents to packets; channels that were not sent are zero, and so are left out of the weights."""
    decoder, sent, ndim = codec.linear_decoder or codec.decoder, codec.channels, codec.config.ndim
    if isinstance(decoder, LinearDecoder):
        return _project(graph, z, decoder.weight[:, :sent], decoder.bias, ndim)
    if not isinstance(decoder, LightDecoder):
        raise CodecError(
            f"Decoders that are linear or light export to ONNX, not {codec.config.decoder}; decode with cml."
        )
    step = torch.tensor(codec.step).clamp(*decoder.limits)
    features = torch.stack((torch.ones_like(step), step.log2(), step.log2().square()))

    def convolve(x: str, weight: Tensor, bias: Tensor | None) -> str:
        return graph("Conv", x, weight, bias, kernel_shape=weight.shape[2:], pads=[weight.shape[2] // 2] * 2 * ndim)

    h = graph("Mul", z, (decoder.variance + step.square()).rsqrt()[:, :sent])
    h = convolve(h, decoder.enter.weight[:, :sent], decoder.enter.bias)
    for block in decoder.blocks:
        assert isinstance(block, LightBlock)
        gain = block.gain(features).view(-1, *[1] * ndim)
        hidden = graph("Mul", convolve(h, block.first.weight, block.first.bias), gain)
        h = graph("Add", h, convolve(graph("Relu", hidden), block.second.weight, block.second.bias))
    correction = graph("Mul", convolve(h, decoder.leave.weight, decoder.leave.bias), step)
    return graph("Add", _project(graph, z, decoder.linear.weight[:, :sent], decoder.linear.bias, ndim), correction)


def library(name: str) -> Any:
    """An optional package of the export, or the sentence that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CodecError(f"Export needs the package {name}: pip install 'cml-toolkit[export]'.") from error
