"""Rate-distortion optimised quantization, in closed form."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Where everything around is zero a symbol costs this share of a step at most; more would erase lone edges.
LARGEST = 0.3
LEAST = 1e-3  # of a mean magnitude, which divides


def local_magnitude(v: Tensor) -> Tensor:
    """Mean of |v| over the 3^D positions around each, channel by channel; v is (B, c, *grid)."""
    magnitude = v.abs()
    if v.dim() == 3:
        return F.avg_pool1d(magnitude, 3, 1, 1, count_include_pad=False)
    if v.dim() == 4:
        return F.avg_pool2d(magnitude, 3, 1, 1, count_include_pad=False)
    # Plane by plane, then along the first axis: pooling in three dimensions refuses grids of one position.
    planes = F.avg_pool2d(magnitude.flatten(1, 2), 3, 1, 1, count_include_pad=False).view_as(v)
    lines = planes.movedim(2, -1)
    return F.avg_pool1d(lines.flatten(0, 3).unsqueeze(1), 3, 1, 1, False, False).view_as(lines).movedim(-1, 2)


def rdo_round(v: Tensor, strength: float) -> Tensor:
    """Round latents in units of the step to the integers of least distortion + lambda * rate.

    With the surroundings as context, an adaptive entropy coder spends about |k| / (b ln 2) bits on the magnitude of a
    symbol k, b the mean magnitude around it. Rounding |v| up rather than down pays where v - floor(v) exceeds
    1/2 + lambda / (2 b ln 2); lambda = (2 ln 2) / 12 is the slope of the rate-distortion function of uniform
    quantization, and `strength` its factor.

    Args:
        v: (B, c, *grid), latents / step.
        strength: 0 rounds to the nearest; about 1 is the theory.
    """
    if strength == 0:
        return v.round()
    threshold = (strength / 12 / local_magnitude(v).clamp(min=LEAST)).clamp(max=LARGEST)
    return torch.floor(v.abs() + 0.5 - threshold) * v.sign()


def bits(v: Tensor) -> Tensor:
    """A smooth estimate of the bits that a context coder spends on each symbol of v, in units of the step.

    The entropy of a Laplacian of mean magnitude b, quantized to integers, is close to log2(1 + (2 e b)^2) / 2 from
    b = 0.1 upward; b is the mean magnitude around the symbol.
    """
    return 0.5 * (1 + (2 * math.e * local_magnitude(v)).square()).log2()
