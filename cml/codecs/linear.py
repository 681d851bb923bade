"""Linear encoder and decoder: one 1x1 convolution between wavelet packets and latents."""

import torch
from torch import Tensor, nn


class LinearEncoder(nn.Module):
    """packets (B, P, *grid) -> weight (c, P) @ packets + bias (c,) -> y (B, c, *grid), in 1, 2 or 3 dimensions.

    WaLLoC's encoder: 2,316 parameters at f8c12, 9,264 at f8c48.
    """

    def __init__(self, packets: int, latent_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(latent_channels, packets))
        self.bias = nn.Parameter(torch.zeros(latent_channels))

    def forward(self, packets: Tensor) -> Tensor:
        return _project(self.weight, self.bias, packets)


class LinearDecoder(nn.Module):
    """z (B, c, *grid) -> weight (P, c) @ z + bias (P,) -> packets (B, P, *grid), the same at every step."""

    def __init__(self, latent_channels: int, packets: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(packets, latent_channels))
        self.bias = nn.Parameter(torch.zeros(packets))

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        return _project(self.weight, self.bias, z)


def _project(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return (weight @ x.flatten(2) + bias[:, None]).unflatten(2, x.shape[2:])
