"""The quantizers: what is done to the latents of an encoder before they are rounded to integers.

    y (B, c, *grid) --compand--> v --/step, round--> symbols --*step--> v --expand--> what the decoder reads

A compander maps every channel into a fixed range through the distribution function of a prior, so that equal steps
hold equal probability; a uniform quantizer leaves the latents alone, and the bits go where the energy is.
"""

import math

import torch
from torch import Tensor, nn

from cml.errors import CodecError
from cml.registry import unknown


class Uniform(nn.Module):
    """No companding: one step for every channel, in the unit of the transform."""

    def compand(self, y: Tensor) -> Tensor:
        return y

    def expand(self, v: Tensor) -> Tensor:
        return v


class GaussianCdf(nn.Module):
    """The distribution function of one Gaussian, without learned parameters (WaLLoC, DCC 2025).

        y (any) --2 m (Phi(y / s) - 1/2)--> v in [-m, m]       m = 2^(bits-1) - 0.501, s = (2^(bits-1) - 1) / 1.85
        v --s Phi^-1(v / 2m + 1/2), probability clipped to [1e-4, 1 - 1e-4]--> y in [-3.72 s, 3.72 s]

    At step 1 the symbols have `bits` bits; m stays short of the next half so that none rounds past them.
    """

    def __init__(self, bits: int = 8):
        super().__init__()
        peak = 2 ** (bits - 1) - 1
        self.scale = peak / 1.85
        self.limit = peak + 0.5 - 1e-3

    def compand(self, y: Tensor) -> Tensor:
        return self.limit * torch.erf(y / (self.scale * math.sqrt(2)))

    def expand(self, v: Tensor) -> Tensor:
        return self.scale * math.sqrt(2) * torch.erfinv((v / self.limit).clamp(-0.9998, 0.9998))


class LaplaceCdf(nn.Module):
    """The distribution function of a Laplacian of learned width, one per channel (LiVeAction, DCC 2026).

        y (any) --127 sign(y) (1 - exp(-|y| / sigma))--> v in [-127, 127]
        v --as it is, for LiVeAction's decoder, which undoes it by itself; or back to y, for a linear one

    Args:
        channels: c.
        invert: whether `expand` undoes the companding, up to 1/127 from its end.
    """

    def __init__(self, channels: int, invert: bool = False):
        super().__init__()
        self.invert = invert
        self.sigma = nn.Parameter(torch.full((channels,), 42.0))

    def compand(self, y: Tensor) -> Tensor:
        return -127 * y.sign() * torch.expm1(-y.abs() / self._width(y))

    def expand(self, v: Tensor) -> Tensor:
        if not self.invert:
            return v
        return -self._width(v) * v.sign() * torch.log1p(-(v.abs() / 127).clamp(max=126 / 127))

    def _width(self, y: Tensor) -> Tensor:
        return self.sigma.clamp(min=1e-6).view(-1, *[1] * (y.dim() - 2))


Quantizer = Uniform | GaussianCdf | LaplaceCdf


def make_quantizer(name: str, channels: int, bits: int = 8, invert: bool = False) -> Quantizer:
    """`uniform`, `gaussian` or `laplace`, for c latent channels.

    `bits` is the range of `gaussian` at step 1, `invert` whether `expand` undoes `laplace`.
    """
    if name == "uniform":
        return Uniform()
    if name == "gaussian":
        return GaussianCdf(bits)
    if name == "laplace":
        return LaplaceCdf(channels, invert)
    raise CodecError(unknown("quantizer", name, ["uniform", "gaussian", "laplace"]))


def symbols_too_large(step: float, peak: float) -> CodecError:
    """The sentence for a step too fine for 16 bits."""
    return CodecError(f"Step {step} gives symbols of {peak:.0f}, past 16 bits; take a larger step.")
