"""Folding: the first layer of a model of pixels and a codec's linear decoder, as one convolution of latents.

    pictures: z --linear decoder--> packets --inverse wavelet--> x_hat --(x - mean) / std--> stem, stride s --> y
    folded:   z --pad--> one convolution, stride L/F, of O (L/s)^2 channels --pixel shuffle by L/s--> --crop--> y

All that stands between latents and the first layer's output is linear, and away from the border it repeats every
L = lcm(F, s) samples: F a latent position, s the stride of the stem. So it is a convolution, with a stride where the
stem's is longer than the codec's patch (a vision transformer of patch 16 on f8: stride 2), and a pixel shuffle where
it is shorter (an EfficientNet of stride 2 on f8: 4 x 4 outputs a position). Its kernel is read off the real code: the
impulse response of each latent channel through decoder, wavelet synthesis and stem, in float64. It reaches four
positions beyond the stem's window, the reach of the wavelets; `reach` cuts it, which is what makes it cheap.

Exact up to rounding away from the border. At the border the wavelets mirror the picture and the stem pads with zeros,
while the fold repeats the outermost latents. What `decode` clamps to [-1, 1] is not clamped.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs import wavelet
from cml.codecs.base import Codec
from cml.codecs.light import LightDecoder
from cml.codecs.linear import LinearDecoder
from cml.codecs.neural import WaveletCodec
from cml.errors import CmlError

_WAVELET_REACH = 4  # latent positions, at any number of levels: 4 samples a level, doubled from level to level


class FoldedStem(nn.Conv2d):
    """Normalized latents (B, c, h, w), as `Latent.to_float` gives them, to what the stem makes of decoded pictures.

    Weight and bias are ordinary parameters: fine-tuning goes on from here.

    Attributes:
        lead: positions before a window's first latent, above and to the left of the picture's first.
        shuffle: L/s, outputs along each axis for one application of the kernel.
    """

    lead: tuple[int, int]
    shuffle: int

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, lead: tuple[int, int], stem: nn.Conv2d, cell: int):
        super().__init__(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride, device="meta")  # pyright: ignore[reportArgumentType]
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.lead = lead
        self.shuffle = stride * cell // stem.stride[0]
        self._cell, self._stem_stride = cell, stem.stride[0]
        self._stem_window, self._stem_padding = _window(stem), _padding(stem)

    def forward(self, input: Tensor) -> Tensor:
        grid = input.shape[2:]
        sizes = [self._outputs(n * self._cell, axis) for axis, n in enumerate(grid)]
        tails = [
            max(self.stride[0] * (math.ceil(size / self.shuffle) - 1) + kernel - lead - n, 0)
            for size, kernel, lead, n in zip(sizes, self.kernel_size, self.lead, grid, strict=True)
        ]
        x = F.pad(input, (self.lead[1], tails[1], self.lead[0], tails[0]), mode="replicate")
        y = F.conv2d(x, self.weight, self.bias, self.stride)
        if self.shuffle > 1:
            y = F.pixel_shuffle(y, self.shuffle)
        return y[..., : sizes[0], : sizes[1]]

    def _outputs(self, samples: int, axis: int) -> int:
        before, after = self._stem_padding[axis]
        return (samples + before + after - self._stem_window[axis]) // self._stem_stride + 1


@torch.no_grad()
def fold(
    stem: nn.Conv2d, codec: Codec, mean: tuple[float, ...], std: tuple[float, ...], reach: int | None = None
) -> FoldedStem:
    """The convolution of latents that does what a stem does to the pictures of a codec's linear decoder.

    Multiply-accumulates of one latent position: c O (L/s)^2 (kernel)^2 / (L/F)^2. With all taps that is more than what
    it replaces, which goes through few values of pixels: 62 times as much for EfficientNet-Lite0 on `rgb_f8c48`, 9
    times with reach 1, 3 on `rgb_f8c12`. For a vision transformer of patch 16 on `rgb_f8c48`, reach 1 costs what its
    stem costs on pixels, a quarter of that on `rgb_f8c12`, and the decoder is saved.

    Args:
        stem: first convolution of a model of pixels, groups 1, the same stride along both axes; timm's `Conv2dSame`
            pads as it does for sizes that are multiples of its stride.
        codec: a `WaveletCodec` of pictures with a linear or light decoder, of which the linear part counts.
        mean, std: what the model subtracts from, and divides, each channel's samples in [0, 1] by.
        reach: latent positions that the kernel sees beyond the stem's stride; None for all. Farther taps are added
            to the nearest that remain, so that flat pictures stay exact.

    Raises:
        CmlError: the codec has no linear decoder, or the stem is not a plain convolution of its channels.
    """
    decoder = _linear_part(codec)
    assert isinstance(codec, WaveletCodec)
    _check_stem(stem, codec)
    cell, stride = codec.config.cell[-1], stem.stride[0]
    period = math.lcm(cell, stride)
    window = _window(stem)
    # Cells from the impulse to the end of the signal: nothing that is read may touch the mirror at the border.
    margin = _WAVELET_REACH + 1 + math.ceil((max(window) + period) / cell)
    side = 2 * margin + 1
    decoder = copy.deepcopy(decoder).double()

    def pixels(z: Tensor) -> Tensor:
        packets = decoder(z, z.new_ones(len(z)))
        size = (side * cell, side * cell)
        x = wavelet.synthesis(packets, codec.config.levels, size, codec.config.boundary)
        shape = (1, -1, 1, 1)
        return ((x + 1) / 2 - x.new_tensor(mean).view(shape)) / x.new_tensor(std).view(shape)

    latent_mean = torch.tensor(codec.config.latent_mean, dtype=torch.float64)
    latent_std = torch.tensor(codec.config.latent_std)[: codec.channels]
    scale = float(latent_std.square().mean().sqrt())  # as `Latent.scale` has it
    latent_mean[codec.channels :] = 0  # channels that are not sent
    flat = latent_mean.view(1, -1, 1, 1).expand(-1, -1, side, side)
    base = pixels(flat)

    # Window starts lie on multiples of `grain` from the first sample that one may start at.
    grain = math.gcd(cell, stride)
    before = [pad[0] for pad in _padding(stem)]
    first = [-pad % grain for pad in before]
    phases = torch.arange(period // stride)
    taps = torch.arange(-margin, margin + period // cell)
    starts = []
    for axis in range(2):
        start = (stride * phases[:, None] - before[axis] + cell * (margin - taps) - first[axis]) // grain
        last = (side * cell - first[axis] - window[axis]) // grain
        starts.append((start, last))

    def at_windows(x: Tensor) -> Tensor:
        return F.conv2d(x[..., first[0] :, first[1] :], stem.weight.double(), None, grain, 0, stem.dilation)

    kernels = []
    for channel in range(codec.channels):
        impulse = flat.clone()
        impulse[0, channel, margin, margin] += scale
        response = at_windows(pixels(impulse) - base)[0]
        kernels.append(_gather(response, starts))  # (O, phases, phases, taps, taps)
    kernel = torch.stack(kernels, 3)
    at_zero = [(start[:, [margin]], last) for start, last in starts]  # the tap of latent 0
    bias = _gather(at_windows(base)[0], at_zero)[..., 0, 0]
    if stem.bias is not None:
        bias += stem.bias.double().view(-1, 1, 1)
    hop = period // cell
    kernel, top = _trim(kernel, -margin, hop, reach, dim=-2)
    kernel, left = _trim(kernel, -margin, hop, reach, dim=-1)
    return FoldedStem(kernel.flatten(0, 2).float(), bias.flatten().float(), hop, (-top, -left), stem, cell)


def _gather(x: Tensor, starts: list[tuple[Tensor, int]]) -> Tensor:
    """(O, *positions) to (O, phases, phases, taps, taps); zero where a window would lie outside."""
    (rows, last_row), (columns, last_column) = starts
    inside = ((rows >= 0) & (rows <= last_row))[:, :, None, None] & ((columns >= 0) & (columns <= last_column))
    picked = x[:, rows.clamp(0, last_row)][..., columns.clamp(0, last_column)]
    return (picked * inside).transpose(2, 3)


def _trim(kernel: Tensor, first: int, hop: int, reach: int | None, dim: int) -> tuple[Tensor, int]:
    """Without taps that are zero, or farther than `reach` from the latents under a hop; and the first that is left."""
    used = kernel.movedim(dim, 0).flatten(1).any(1).nonzero().flatten() + first
    low, high = int(used[0]), int(used[-1])
    if reach is None:
        return kernel.narrow(dim, low - first, high - low + 1), low
    low, high = max(low, -reach), min(high, hop - 1 + reach)
    nearest = torch.arange(first, first + kernel.shape[dim]).clamp(low, high) - low
    shape = [*kernel.shape]
    shape[dim] = high - low + 1
    return kernel.new_zeros(shape).index_add_(dim, nearest, kernel), low


def _linear_part(codec: Codec) -> LinearDecoder:
    if isinstance(codec, WaveletCodec) and codec.config.ndim == 2 and codec.config.quantizer == "uniform":
        decoder = codec.decoder.linear if isinstance(codec.decoder, LightDecoder) else codec.decoder
        if isinstance(decoder, LinearDecoder):
            return decoder
    raise CmlError(
        f"{codec.spec.name} has no linear decoder that a stem could be folded with; the bundled codecs of pictures "
        "(rgb_f8c12, rgb_f8c48, rgb_f16c12, rgb_f16c48, gray_f8c4, gray_f8c16) and those of `cml fit` have one."
    )


def _check_stem(stem: nn.Module, codec: WaveletCodec) -> None:
    plain = type(stem) is nn.Conv2d or _is_same(stem)
    if not (plain and isinstance(stem, nn.Conv2d) and stem.groups == 1 and stem.stride[0] == stem.stride[1]):
        raise CmlError(
            f"A stem to fold is a convolution of one group and one stride, not {stem}; vision transformers, ResNets, "
            "ConvNeXts, EfficientNets, Swins and MaxViTs have one."
        )
    if len(set(codec.config.cell)) > 1:
        raise CmlError(f"{codec.spec.name} has cells of {codec.config.cell} samples; fold a codec with square ones.")
    if stem.in_channels != codec.config.channels:
        raise CmlError(
            f"The model reads {stem.in_channels} channels and {codec.spec.name} decodes to {codec.config.channels}; "
            "take a codec of the model's channels."
        )


def _is_same(stem: nn.Module) -> bool:
    return type(stem).__name__ == "Conv2dSame"  # by name: timm takes a second to import


def _window(stem: nn.Conv2d) -> tuple[int, int]:
    return tuple(d * (k - 1) + 1 for k, d in zip(stem.kernel_size, stem.dilation, strict=True))  # pyright: ignore[reportReturnType]


def _padding(stem: nn.Conv2d) -> list[tuple[int, int]]:
    """Of each axis, before and after the picture."""
    if _is_same(stem) or stem.padding == "same":
        totals = [max(n - stem.stride[0], 0) for n in _window(stem)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(0, 0), (0, 0)] if isinstance(stem.padding, str) else [(n, n) for n in stem.padding]


def fold_model(
    model: nn.Module, stem: str, codec: Codec, mean: tuple[float, ...], std: tuple[float, ...], reach: int | None = None
) -> nn.Module:
    """A copy of a model of pixels that reads latents: its first convolution folded, all else as it was.

    Args:
        model: whose input is a normalized picture.
        stem: path of its first convolution.
        codec, mean, std, reach: as `fold` has them.
    """
    model = copy.deepcopy(model)
    convolution = model.get_submodule(stem)
    assert isinstance(convolution, nn.Conv2d)
    folded = fold(convolution, codec, mean, std, reach)
    model.set_submodule(stem, folded)
    owner = model.get_submodule(stem.rpartition(".")[0])
    if hasattr(owner, "img_size") and hasattr(owner, "patch_size"):  # timm's PatchEmbed checks its input by these
        owner.img_size = None  # pyright: ignore
        owner.patch_size = tuple(n // folded.shuffle for n in folded.stride)  # pyright: ignore
    return model
