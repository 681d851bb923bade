"""Augmentation of latents as they are: flips, transpositions, quarter turns, crops, coarser steps, mixup; no decoding.

    augment = LatentAugment(codec, flips=(-1,), mixup=0.2)       # made once
    z, drawn = augment(batch.to_float(), generator)              # for each batch

A two-channel filter bank samples even positions, and a flip of an even length exchanges even for odd. So the packets
of a flipped signal are not the flipped packets, but these after a shift by one sample, which is linear and local:

    z (c, G) --reverse the grid--> convolution c -> c, 15 positions wide --> latents of the flipped signal
                                   (with weights of their own in the 7 positions next to each end, where signals mirror)

The weights are the impulse responses of the codec itself, encode(flip(decode)) along one axis, in float64. Seven
positions hold all of a response at any number of levels, so nothing is cut off. A transposition exchanges the two
axes of a separable transform that is the same along both: one c x c matrix at each position.

How exact it is:
- With as many latent channels as packets: exact, the border included, to the precision of floats.
- With fewer, what the encoder dropped cannot be brought back. The decoder assumed between two encodings is the best of
  those that change nothing: of all packets that encode to z, those nearest to what the codec's linear decoder says (to
  zero where it has none). The error of a flip is then 2.5 % (rgb_f8c48) to 9 % (gray_f8c16) of the latents' deviation
  from their mean, where rounding to symbols makes 12 and 7.5 %. From stored symbols it is smaller than that of
  decoding with the trained decoder, flipping and encoding again; docs/results/augment.md has every codec's figures.
- Mixtures are exact for every linear encoder. Crops are exact 4 positions away from the cut.
- A signal whose size is no multiple of the patch was padded at its end: it is the padded signal that is flipped.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs import wavelet
from cml.codecs.base import Codec
from cml.codecs.light import LightDecoder
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.neural import WaveletCodec
from cml.codecs.quantize import LaplaceCdf
from cml.errors import CodecError, DataError

REACH = 7  # positions on either side that a flip reads, for any number of levels
_WINDOW = 2 * REACH + 1
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class LatentOperators(nn.Module):
    """What can be done to the latents of one codec, in 1, 2 or 3 dimensions.

    Every method takes and gives float latents (B, c, *grid) as `Latent.to_float` and `LatentBatch.to_float` make them,
    where the module is, and is differentiable. Axes are counted from the end: -1 is horizontal in pictures, time in
    audio. Weights are computed when they are first needed, in a second or two for each axis, and kept.

    Args:
        codec: a wavelet codec with a linear encoder; c is the number of channels that it sends.
        normalize: whether the latents are normalized, as in `Latent.to_float`.

    Raises:
        CodecError: the codec has no linear encoder, or the latents are not its own.
    """

    mean: Tensor
    blank: Tensor

    def __init__(self, codec: Codec, normalize: bool = True):
        super().__init__()
        if not (isinstance(codec, WaveletCodec) and isinstance(codec.encoder, LinearEncoder)):
            raise CodecError(
                f"Latents are flipped, turned and mixed through a linear encoder, and {codec.spec.name} has none; "
                "augment the signals and encode them again."
            )
        self.config, self.channels = codec.config, codec.channels
        kept = slice(self.channels)
        mean, std = (torch.tensor(values)[kept] for values in (self.config.latent_mean, self.config.latent_std))
        self.scale = float(std.square().mean().sqrt()) if normalize else 1.0
        shape = (-1, *[1] * self.config.ndim)
        self.register_buffer("mean", (mean if normalize else torch.zeros_like(mean)).view(shape), persistent=False)
        self.register_buffer("blank", (mean.view(shape) - self.mean) / self.scale, persistent=False)
        self.quantizer = copy.deepcopy(codec.quantizer).requires_grad_(False)
        if isinstance(self.quantizer, LaplaceCdf):
            self.quantizer.sigma = nn.Parameter(self.quantizer.sigma[kept].clone(), requires_grad=False)
            self.quantizer.invert = True  # which a decoder that undoes the companding itself leaves to it
        weight, bias = (t.detach().cpu().double()[kept] for t in (codec.encoder.weight, codec.encoder.bias))
        self._encoder = weight, bias
        self._decoder = _consistent_decoder(weight, bias, _linear_decoder(codec))
        self._weights: dict[tuple, tuple[Tensor, Tensor]] = {}

    def flip(self, z: Tensor, axis: int = -1) -> Tensor:
        """The latents of the signals flipped along an axis."""
        dim = self._dim(z, axis)
        return self._from_linear(self._flip(self._to_linear(z).flip(dim), dim))

    def transpose(self, z: Tensor, first: int = -2, second: int = -1) -> Tensor:
        """The latents of the signals with two axes exchanged."""
        a, b = sorted((self._dim(z, first), self._dim(z, second)))
        if a == b:
            raise CodecError(f"A transposition exchanges two axes; {first} and {second} are one.")
        weight, bias = self._response(z, f"transpose {a}", lambda x: x.transpose(a, b), b, 1)
        return self._from_linear(_project(weight[:, 0, :, 0], bias[:, 0], self._to_linear(z).transpose(a, b)))

    def quarter_turn(self, z: Tensor, turns: int = 1) -> Tensor:
        """The latents of pictures turned counter-clockwise by quarters, as by `torch.rot90(x, turns, (-2, -1))`."""
        turns %= 4
        if turns == 2:
            return self.flip(self.flip(z, -1), -2)
        return self.transpose(self.flip(z, -1 if turns == 1 else -2)) if turns else z

    def requantize(self, z: Tensor, step: float | Tensor) -> Tensor:
        """As if the signals had been encoded at a coarser step; gradients pass as if nothing were rounded.

        What was rounded once is rounded again, always to the nearest.

        Args:
            z: latents.
            step: one, or (B,) of them.
        """
        step = _per_sample(step, z)
        rounded = ((z * self.scale + self.mean) / step).round() * step
        return z + ((rounded - self.mean) / self.scale - z).detach()

    def drop_channels(self, z: Tensor, dropped: Tensor) -> Tensor:
        """Whole channels replaced by their mean over the codec's training data; dropped is bool (B, c) or (c,).

        These are the latents of the signals without what the channels say. Nothing is scaled up in their stead.
        """
        return torch.where(dropped.view(-1, self.channels, *[1] * self.config.ndim), self.blank, z)

    def mix(self, z: Tensor, other: Tensor, share: float | Tensor) -> Tensor:
        """The latents of share * x + (1 - share) * x of the other; share is one number, or (B,) of them."""
        return self._from_linear(self._to_linear(other).lerp(self._to_linear(z), _per_sample(share, z)))

    def _dim(self, z: Tensor, axis: int) -> int:
        ndim = self.config.ndim
        if z.dim() != ndim + 2 or z.shape[1] != self.channels:
            raise CodecError(
                f"Expected latents (batch, {self.channels}, {ndim} spatial axes) of this codec, got {tuple(z.shape)}."
            )
        if not -ndim <= axis < 0:
            raise CodecError(f"Axes are counted from the end, -{ndim} to -1; there is no axis {axis}.")
        return z.dim() + axis

    def _to_linear(self, z: Tensor) -> Tensor:
        """To the encoder's own outputs, in which all is affine."""
        return self.quantizer.expand(z * self.scale + self.mean)

    def _from_linear(self, y: Tensor) -> Tensor:
        return (self.quantizer.compand(y) - self.mean) / self.scale

    def _flip(self, y: Tensor, dim: int) -> Tensor:
        """What is left to do after the grid is reversed."""
        length = y.shape[dim]
        weight, bias = self._response(y, "flip", lambda x: x.flip(dim), dim, min(length, _WINDOW))
        if length <= _WINDOW:
            return _apply(weight, bias, y, dim)
        periodic = self.config.boundary == "periodic"
        if periodic:
            y = torch.cat((y.narrow(dim, length - REACH, REACH), y, y.narrow(dim, 0, REACH)), dim)
        shape = [1] * self.config.ndim
        shape[dim - 2] = _WINDOW
        kernel = weight[:, REACH].reshape(self.channels, self.channels, *shape)
        middle = _CONVOLUTIONS[self.config.ndim - 1](y, kernel, bias[:, REACH])
        if periodic:
            return middle
        start, end = slice(REACH), slice(REACH + 1, None)
        first = _apply(weight[:, start], bias[:, start], y.narrow(dim, 0, _WINDOW), dim)
        last = _apply(weight[:, end], bias[:, end], y.narrow(dim, length - _WINDOW, _WINDOW), dim)
        return torch.cat((first, middle, last), dim)

    def _response(
        self, like: Tensor, name: str, operate: Callable[[Tensor], Tensor], dim: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """`_measure`, kept for each device and type."""
        key = (name, dim, length, like.device, like.dtype)
        if key not in self._weights:
            # Kept for training, too, even if inference asks first.
            with torch.inference_mode(False), torch.no_grad():
                weight, bias = self._measure(operate, dim, length)
                self._weights[key] = weight.to(like.device, like.dtype), bias.to(like.device, like.dtype)
        return self._weights[key]

    def _measure(self, operate: Callable[[Tensor], Tensor], dim: int, length: int) -> tuple[Tensor, Tensor]:
        """What an operation on signals does to a line of latents, given in reverse order.

        The other axes have one position: the transform is separable, and along them it and its inverse cancel.

        Returns:
            weight (c, length, c, length), outputs first, and bias (c, length).
        """
        c, grid = self.channels, [1] * self.config.ndim
        grid[dim - 2] = length
        bias = self._through(torch.zeros(1, c, *grid).double(), operate).view(c, length)
        columns = []
        for position in range(length):
            impulses = torch.zeros(c, c, length).double()
            impulses[:, :, position] = torch.eye(c)
            columns.append(self._through(impulses.view(c, c, *grid), operate).view(c, c, length) - bias)
        return torch.stack(columns[::-1], -1).permute(1, 2, 0, 3).contiguous(), bias

    def _through(self, y: Tensor, operate: Callable[[Tensor], Tensor]) -> Tensor:
        """Decode, operate, encode."""
        levels, boundary = self.config.levels, self.config.boundary
        size = tuple(n * m for n, m in zip(y.shape[2:], self.config.cell, strict=True))
        x = operate(wavelet.synthesis(_project(*self._decoder, y), levels, size, boundary))
        return _project(*self._encoder, wavelet.analysis(x, levels, boundary))


def _linear_decoder(codec: WaveletCodec) -> LinearDecoder | None:
    return codec.decoder.linear if isinstance(codec.decoder, LightDecoder) else codec.linear_decoder


def _consistent_decoder(weight: Tensor, bias: Tensor, decoder: LinearDecoder | None) -> tuple[Tensor, Tensor]:
    """Weight (P, c) and bias (P,) to the packets that encode to exactly z, and are nearest to a decoder's.

    A decoder trained for rounded latents shrinks them, and the pseudo-inverse of the encoder alone knows nothing of
    signals. This is as good as the better of the two, or better, on every bundled codec.
    """
    inverse = torch.linalg.pinv(weight)
    if decoder is None:
        return inverse, -inverse @ bias
    guess, offset = decoder.weight.detach().cpu().double()[:, : len(weight)], decoder.bias.detach().cpu().double()
    unity = torch.eye(len(weight)).double()
    return guess + inverse @ (unity - weight @ guess), offset - inverse @ (bias + weight @ offset)


def _project(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return (weight @ x.flatten(2) + bias[:, None]).unflatten(2, x.shape[2:])


def _apply(weight: Tensor, bias: Tensor, y: Tensor, dim: int) -> Tensor:
    """weight (c, n, c, m) on m positions along one axis of y (B, c, *grid): n positions."""
    lines = y.movedim((1, dim), (-2, -1)).flatten(-2)
    out = lines @ weight.flatten(2).flatten(0, 1).mT + bias.flatten()
    return out.unflatten(-1, bias.shape).movedim((-2, -1), (1, dim))


def _per_sample(value: float | Tensor, z: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=z.dtype, device=z.device).view(-1, *[1] * (z.dim() - 1))


@dataclass(frozen=True)
class Drawn:
    """What a `LatentAugment` drew for a batch of B.

    Attributes:
        flips: axis -> bool (B,), which samples were flipped along it, before anything else.
        transposed: bool (B,), the last two axes exchanged, after the flips.
        corner: int (B, D), the first grid position that was kept; None without a crop.
        crop: the grid that was kept.
        partner, share: int (B,) and float (B,): sample i is share[i] of itself and the rest of sample partner[i].
        steps: float (B,), the step of each; None where steps are left alone.
        dropped: bool (B, c).
    """

    flips: dict[int, Tensor]
    transposed: Tensor
    corner: Tensor | None
    crop: tuple[int, ...]
    partner: Tensor
    share: Tensor
    steps: Tensor | None
    dropped: Tensor

    def move(self, maps: Tensor, patch: int) -> Tensor:
        """The same flips, transpositions and crops for what has samples: pictures, or label masks.

        Args:
            maps: (B, ..., *S), S being `patch` times the grid.
            patch: samples of the maps at each grid position along an axis.
        """
        for axis, chosen in self.flips.items():
            maps = _where(chosen, maps, lambda part, axis=axis: part.flip(axis))
        maps = _where(self.transposed, maps, lambda part: part.transpose(-2, -1))
        if self.corner is None:
            return maps
        return _crop(maps, self.corner * patch, tuple(n * patch for n in self.crop))


class LatentAugment(nn.Module):
    """Random augmentation of batches of latents, each sample by itself; the same generator gives the same batch.

        z --flips--> transposition --> crop --> mixup --> coarser step --> dropped channels

    In the order of a camera: geometry, light, then quantizer and channel. Flips come before the crop, since a flip
    reads the neighbours of what is kept.

    Args:
        codec: whose latents they are; a wavelet codec with a linear encoder.
        flips: axes, counted from the end, along which half of the samples are flipped.
        transpose: exchange the last two axes of half of the samples; with both flips, all eight symmetries of a square.
        crop: grid positions to keep along each axis, from a random place; None for all.
        mixup: a of Beta(a, a), the share of one sample in its mixture with another; 0 for no mixtures.
        jitter: the step is drawn log-uniformly from these two factors times the codec's, 1 or more; (1, 1) leaves it.
        dropout: probability with which each channel is dropped.
        normalize: as for `LatentOperators`.

    Raises:
        DataError: a value is out of range, or does not fit the latents.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        flips: Sequence[int] = (),
        transpose: bool = False,
        crop: tuple[int, ...] | None = None,
        mixup: float = 0.0,
        jitter: tuple[float, float] = (1.0, 1.0),
        dropout: float = 0.0,
        normalize: bool = True,
    ):
        super().__init__()
        self.operators = LatentOperators(codec, normalize)
        ndim = self.operators.config.ndim
        if not 1 <= jitter[0] <= jitter[1]:
            raise DataError(f"The step is jittered by factors of 1 or more, the least first, not {jitter}.")
        if not (0 <= dropout < 1 and mixup >= 0):
            raise DataError(f"Dropout is 0 to below 1 and mixup 0 or more, not {dropout} and {mixup}.")
        if crop is not None and (len(crop) != ndim or min(crop) < 1):
            raise DataError(f"A crop keeps 1 or more positions along each of {ndim} axes, not {crop}.")
        if transpose and ndim < 2:
            raise DataError("Signals of one axis have no transposition.")
        self.flips, self.transpose, self.crop = tuple(flips), transpose, crop
        self.mixup, self.jitter, self.dropout = mixup, jitter, dropout
        self.step = codec.step if isinstance(codec, WaveletCodec) else 1.0

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Drawn]:
        """Latents (B, c, *grid) augmented, and what was done to each.

        Args:
            z: latents, where the module is.
            generator: of the CPU; None for torch's own.
        """
        drawn, operators = self._draw(z, generator), self.operators
        for axis, chosen in drawn.flips.items():
            z = _where(chosen, z, lambda part, axis=axis: operators.flip(part, axis))
        z = _where(drawn.transposed, z, operators.transpose)
        if drawn.corner is not None:
            z = _crop(z, drawn.corner, drawn.crop)
        if self.mixup:
            z = operators.mix(z, z[drawn.partner.to(z.device)], drawn.share)
        if drawn.steps is not None:
            z = operators.requantize(z, drawn.steps)
        return (operators.drop_channels(z, drawn.dropped.to(z.device)) if self.dropout else z), drawn

    def _draw(self, z: Tensor, generator: torch.Generator | None) -> Drawn:
        count, grid = len(z), z.shape[2:]
        if self.transpose and grid[-1] != grid[-2]:
            raise DataError(f"Only square grids are transposed sample by sample; this one is {tuple(grid)}.")
        if self.crop is not None and any(n > g for n, g in zip(self.crop, grid, strict=True)):
            raise DataError(f"A crop of {self.crop} positions does not fit into a grid of {tuple(grid)}.")

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        corner = steps = None
        if self.crop is not None:
            room = torch.tensor([g - n + 1 for n, g in zip(self.crop, grid, strict=True)])
            corner = (uniform(count, len(grid)) * room).long()
        if self.jitter[1] > 1:
            low, high = self.jitter
            steps = self.step * low * (high / low) ** uniform(count)
        share = torch.ones(count)
        if self.mixup:
            # torch's own sampler of the beta distribution takes no generator.
            seed = int(torch.randint(2**31, (), generator=generator))
            share = torch.from_numpy(np.random.default_rng(seed).beta(self.mixup, self.mixup, count)).float()
        return Drawn(
            flips={axis: uniform(count) < 0.5 for axis in self.flips},
            transposed=(uniform(count) < 0.5) & self.transpose,
            corner=corner,
            crop=self.crop or tuple(grid),
            partner=torch.randperm(count, generator=generator),
            share=share,
            steps=steps,
            dropped=uniform(count, self.operators.channels) < self.dropout,
        )


def _where(chosen: Tensor, x: Tensor, operate: Callable[[Tensor], Tensor]) -> Tensor:
    """`operate` on the chosen samples of a batch alone."""
    if not chosen.any():
        return x
    chosen = chosen.to(x.device)
    out = x.clone()
    out[chosen] = operate(x[chosen])
    return out


def _crop(x: Tensor, corner: Tensor, size: tuple[int, ...]) -> Tensor:
    """From each sample of x (B, ..., *S) the part of `size` that begins at its corner (B, D)."""
    windows = (tuple(slice(a, a + n) for a, n in zip(first, size, strict=True)) for first in corner.tolist())
    return torch.stack([sample[(..., *window)] for sample, window in zip(x, windows, strict=True)])
