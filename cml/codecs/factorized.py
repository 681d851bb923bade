"""LiVeAction's encoder: residual blocks whose dense 1x1 convolutions are each a product of two grouped ones.

Jacobellis and Yadwadkar, "LiVeAction: Lightweight, Versatile, and Asymmetric Codec Design", DCC 2026; the
factorization is that of "Monarch: Expressive Structured Matrices" (Dao et al., ICML 2022), and of the FFT before it.
"""

import torch
from torch import Tensor, nn

from cml.codecs.layers import GroupNorm, convolution

# Power law that brings wavelet packets of a [-1, 1] signal, heavy-tailed, to a range that a network handles.
POWER, OFFSET, SCALE = 0.4, 0.1, 12.8


def compand_packets(packets: Tensor) -> Tensor:
    """12.8 sign(x) ((|x| + 0.1)^0.4 - 0.1^0.4)."""
    return SCALE * packets.sign() * ((packets.abs() + OFFSET) ** POWER - OFFSET**POWER)


def expand_packets(companded: Tensor) -> Tensor:
    """The inverse of `compand_packets`."""
    magnitude = (companded.abs() / SCALE + OFFSET**POWER) ** (1 / POWER) - OFFSET
    return companded.sign() * magnitude


def choose_groups(inputs: int, outputs: int) -> tuple[int, int]:
    """The groups (g1, g2) of the two convolutions that need the fewest weights, inputs^2 / g1 + inputs outputs / g2.

    g1 g2 = inputs, so that after the shuffle every output sees every input. g2 must divide the outputs too; one
    group always does, so a choice exists for any pair of sizes.
    """
    pairs = [(inputs // g2, g2) for g2 in range(inputs, 0, -1) if inputs % g2 == 0 and outputs % g2 == 0]
    return min(pairs, key=lambda pair: inputs**2 / pair[0] + inputs * outputs / pair[1])


class FactorizedConv(nn.Module):
    """A 1x1 convolution as a product of two sparse ones: 43,008 weights instead of 589,824 for 768 channels to 768.

    x (B, inputs, *grid) --conv 1, g1 groups--> shuffle (g1 g2 -> g2 g1) --conv 1, g2 groups--> (B, outputs, *grid)
    """

    def __init__(self, ndim: int, inputs: int, outputs: int, bias: bool = False):
        super().__init__()
        self.groups = choose_groups(inputs, outputs)
        self.conv1 = convolution(ndim, inputs, inputs, groups=self.groups[0], bias=bias)
        self.conv2 = convolution(ndim, inputs, outputs, groups=self.groups[1], bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).unflatten(1, self.groups).transpose(1, 2).flatten(1, 2))


class SqueezeExcite(nn.Module):
    """x * sigmoid(expand(gelu(reduce(mean of x over the grid)))), reduced to a quarter of the channels."""

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        self.reduce = FactorizedConv(ndim, channels, channels // 4, bias=True)
        self.gelu = nn.GELU(approximate="tanh")
        self.expand = FactorizedConv(ndim, channels // 4, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(tuple(range(2, x.dim())), keepdim=True)
        return x * self.expand(self.gelu(self.reduce(mean))).sigmoid()


class FactorizedResBlock(nn.Module):
    """x --conv--> GroupNorm 8 --gelu, conv--> GroupNorm 8 --squeeze-excite--> (+ x), with factorized convolutions."""

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        self.norm1, self.norm2 = (GroupNorm(8, channels, 1e-7) for _ in range(2))
        self.conv1, self.conv2 = (FactorizedConv(ndim, channels, channels) for _ in range(2))
        self.gelu = nn.GELU(approximate="tanh")
        self.squeeze_excite = SqueezeExcite(ndim, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.gelu(self.norm1(self.conv1(x)))))
        return x + self.squeeze_excite(h)


class FactorizedEncoder(nn.Module):
    """packets (B, P, *grid) --power law--> depth x residual block --factorized 1x1--> y (B, c, *grid).

    Every operation works within one grid position, except the mean of the squeeze-excite, which is over the signal.
    The buffer `order` says which packet each channel of the network is: the identity, except in 3-D codecs read from
    livecodec, whose transform orders the bands otherwise.

    Args:
        ndim: D.
        packets: P, a multiple of 8.
        latent_channels: c.
        depth: residual blocks; the published codecs have 4 (493,056 parameters at P = 768 without the last 1x1).

    Raises:
        CodecError: P is not a multiple of 8.
    """

    order: Tensor

    def __init__(self, ndim: int, packets: int, latent_channels: int, depth: int = 4):
        super().__init__()
        self.blocks = nn.Sequential(*(FactorizedResBlock(ndim, packets) for _ in range(depth)))
        self.down = FactorizedConv(ndim, packets, latent_channels)
        self.register_buffer("order", torch.arange(packets))

    def forward(self, packets: Tensor) -> Tensor:
        return self.down(self.blocks(compand_packets(packets[:, self.order])))
