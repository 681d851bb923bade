"""WaLLoC's decoder for pictures: the decoder of a latent-diffusion autoencoder, without its upsampling.

Jacobellis, Cummings and Yadwadkar, "Learned Compression for Compressed Learning", DCC 2025; the network is that of
Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022, with one stage.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cml.codecs.layers import GroupNorm, convolution


class ResBlock(nn.Module):
    """x --GroupNorm 32, SiLU, conv 3--> GroupNorm 32, SiLU, conv 3--> (+ x)."""

    def __init__(self, ndim: int, width: int):
        super().__init__()
        self.norm1, self.norm2 = (GroupNorm(32, width, 1e-6) for _ in range(2))
        self.conv1, self.conv2 = (convolution(ndim, width, width, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class SelfAttention(nn.Module):
    """x --GroupNorm 32--> softmax attention over all positions, one head --> (+ x); quadratic in the positions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = GroupNorm(32, width, 1e-6)
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        return x + self.project(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class ResidualDecoder(nn.Module):
    """z (B, c, *grid) --conv 3--> ResBlock, attention, 4 x ResBlock --GroupNorm 32, SiLU, conv 3--> (B, P, *grid).

    The same at every step. 57 M parameters at the published width of 768.

    Args:
        ndim: D.
        latent_channels: c.
        packets: P.
        width: channels of the network, a multiple of 32.

    Raises:
        CodecError: the width is not a multiple of 32.
    """

    def __init__(self, ndim: int, latent_channels: int, packets: int, width: int):
        super().__init__()
        self.norm = GroupNorm(32, width, 1e-6)
        self.enter = convolution(ndim, latent_channels, width, 3)
        self.blocks = nn.Sequential(
            ResBlock(ndim, width), SelfAttention(width), *(ResBlock(ndim, width) for _ in range(4))
        )
        self.leave = convolution(ndim, width, packets, 3)

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        return self.leave(F.silu(self.norm(self.blocks(self.enter(z)))))
