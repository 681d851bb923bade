"""The light decoder: a linear decoder and a small convolutional correction in the wavelet domain, for every step."""

import torch
from torch import Tensor, nn

from cml.codecs.layers import convolution
from cml.codecs.linear import LinearDecoder


class LightDecoder(nn.Module):
    """Linear reconstruction plus a residual network on the latent grid, in 1, 2 or 3 dimensions.

        z (B, c, *grid) --linear--------------------------------------------------------------(+)--> packets
           |                                                                                   |
           +--> z / sqrt(step^2 + std^2) --conv 3--> depth x (conv 3, gain, ReLU, conv 3, +) --conv 1--> * step

    One network serves all quantization steps: each block's hidden features are scaled by a gain, a quadratic function
    of log2(step). Input channels are brought to unit variance, those weaker than the step to whole symbols; the
    correction is in units of the step. It works where the signal has 1/F^D of its positions, which makes it cheap:
    width 96 and depth 4 at f8 are 0.7 M parameters and 11,000 multiplications a pixel.

    Args:
        ndim: D.
        latent_channels: c.
        packets: P.
        width: channels of the network.
        depth: residual blocks.
    """

    variance: Tensor
    limits: Tensor

    def __init__(self, ndim: int, latent_channels: int, packets: int, width: int, depth: int):
        super().__init__()
        self.linear = LinearDecoder(latent_channels, packets)
        self.enter = convolution(ndim, latent_channels, width, 3)
        self.blocks = nn.ModuleList(LightBlock(ndim, width) for _ in range(depth))
        self.leave = convolution(ndim, width, packets)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)
        # Of the latents of the closed form; a constant of the network, whatever later training does to the latents.
        self.register_buffer("variance", torch.ones(1, latent_channels, *[1] * ndim))
        # The steps of training: a finer one is corrected like the finest of them, a coarser one like the coarsest.
        self.register_buffer("limits", torch.tensor([1e-3, 1e3]))

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        linear = self.linear(z, step)
        step = step.clamp(self.limits[0], self.limits[1]).view(-1, *[1] * (z.dim() - 1))
        h = z * (self.variance + step.square()).rsqrt()
        if h.dim() == 4:
            # Channels last is a fifth faster on a CPU at these widths.
            h = h.contiguous(memory_format=torch.channels_last)
        h = self.enter(h)
        log = step.log2()
        features = torch.cat((torch.ones_like(log), log, log.square()), 1).flatten(1)
        for block in self.blocks:
            h = block(h, features)
        return linear + (self.leave(h) * step).contiguous()


class LightBlock(nn.Module):
    """h + conv 3 (ReLU (gain(step) * conv 3 (h)))."""

    def __init__(self, ndim: int, width: int):
        super().__init__()
        self.first = convolution(ndim, width, width, 3)
        self.second = convolution(ndim, width, width, 3)
        self.gain = nn.Linear(3, width, bias=False)
        with torch.no_grad():
            # The network starts as the sum of small corrections, the same at every step.
            self.second.weight.mul_(0.1)
            self.gain.weight.zero_()
            self.gain.weight[:, 0] = 1

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        gain = self.gain(features).view(len(features), -1, *[1] * (h.dim() - 2))
        return h + self.second(torch.relu(self.first(h) * gain))
