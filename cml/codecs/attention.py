"""LiVeAction's decoder: linear attention and depthwise convolution over wavelet packets, in 1, 2 or 3 dimensions.

The blocks are those of EfficientViT (Cai et al., ICCV 2023) as the `livecodec` package computes them: one attention
head as wide as the network, no positional encoding, group instead of batch normalization.
"""

import torch
from torch import Tensor, nn

from cml.codecs.factorized import FactorizedConv, expand_packets
from cml.codecs.layers import GroupNorm, convolution
from cml.errors import CodecError

_EXPANSION = 6
_HEAD_UNIT = 32


class LinearAttention(nn.Module):
    """Attention with a ReLU kernel in place of the softmax: its cost is linear in the number of positions.

        x (B, P, *grid) --1x1--> q, k, v --> v relu(k)^T relu(q) / (sum of relu(k))^T relu(q) --1x1--> GroupNorm 8

    Raises:
        CodecError: fewer than 32 channels.
    """

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        inner = channels // _HEAD_UNIT * _HEAD_UNIT
        if inner == 0:
            raise CodecError(f"Linear attention needs {_HEAD_UNIT} channels or more, not {channels}; take more levels.")
        self.qkv = convolution(ndim, channels, 3 * inner, bias=False)
        self.project = convolution(ndim, inner, channels, bias=False)
        self.norm = GroupNorm(8, channels, 1e-7)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (-1, 3)).unbind(2)
        q, k = q.relu(), k.relu()
        mixed = v @ k.transpose(1, 2) @ q
        weight = k.sum(2, keepdim=True).transpose(1, 2) @ q
        return self.norm(self.project((mixed / (weight + 1e-5)).unflatten(2, x.shape[2:])))


class AttentionBlock(nn.Module):
    """x --linear attention--> (+ x) --1x1 to 6 P, depthwise 3, 1x1 to P, each normalized and gelu--> (+ x)."""

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        wide = _EXPANSION * channels
        self.attention = LinearAttention(ndim, channels)
        self.local = nn.Sequential(
            convolution(ndim, channels, wide),
            GroupNorm(8, wide, 1e-7),
            nn.GELU(approximate="tanh"),
            convolution(ndim, wide, wide, 3, groups=wide),
            GroupNorm(8, wide, 1e-7),
            nn.GELU(approximate="tanh"),
            convolution(ndim, wide, channels, bias=False),
            GroupNorm(8, channels, 1e-7),
            nn.GELU(approximate="tanh"),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.local(x)


class AttentionDecoder(nn.Module):
    """z (B, c, *grid) --factorized 1x1--> depth x block --inverse power law--> packets (B, P, *grid).

    The same at every step. The network is as wide as the packets, which is what makes it heavy: 4.9 M parameters at
    P = 192 and depth 8, 76 M at P = 768. The buffer `order` is that of `FactorizedEncoder`.

    Args:
        ndim: D.
        latent_channels: c.
        packets: P, a multiple of 8, at least 32.
        depth: blocks; the published codecs have 8 or 12.

    Raises:
        CodecError: P is too small or not a multiple of 8.
    """

    order: Tensor

    def __init__(self, ndim: int, latent_channels: int, packets: int, depth: int = 8):
        super().__init__()
        self.up = FactorizedConv(ndim, latent_channels, packets)
        self.blocks = nn.Sequential(*(AttentionBlock(ndim, packets) for _ in range(depth)))
        self.register_buffer("order", torch.arange(packets))

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        return expand_packets(self.blocks(self.up(z)))[:, self.order.argsort()]
