"""WaLLoC's decoder for sound: Oobleck's residual units on the packets, then a filter on the waveform.

Jacobellis, Cummings and Yadwadkar, "Learned Compression for Compressed Learning", DCC 2025; the units are those of
Evans et al., "Stable Audio Open", 2024, with the learned frequency of Snake activations.
"""

import torch
from torch import Tensor, nn

from cml.codecs import wavelet
from cml.errors import CodecError

_TAPS = 129


class Snake(nn.Module):
    """x + sin^2(a x) / b, with a and b learned for each channel (Ziyin et al., 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(channels, 1))
        self.log_b = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.log_a.exp() * x).sin().square() / (self.log_b.exp() + 1e-9)


class ResidualUnit(nn.Module):
    """x --Snake, conv 7 dilated--> Snake, conv 1--> (+ x)."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.body = nn.Sequential(
            Snake(channels),
            nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    """Snake, a convolution of two taps that shortens the grid by one, and units of dilation 1, 3, 9."""
    units = [ResidualUnit(outputs, dilation) for dilation in (1, 3, 9)]
    return [Snake(inputs), nn.Conv1d(inputs, outputs, 2), *units]


class OobleckDecoder(nn.Module):
    """Waveforms, or any signal of one axis, from latents.

        z (B, c, L) --pad by one position on either side--> conv 7 to width --stage--> stage to c --Snake, conv 7-->
          --inverse WPT--> x (B, C, L 2^J) --filter of 129 taps--> WPT --> packets (B, P, L)

    Each stage shortens the grid by one, hence the padding; `edge` is what stands there. The filter works across the
    borders of the wavelet bands; going back to packets after it costs two lifting passes and lets this decoder stand
    wherever others do. The same at every step.

    Args:
        ndim: 1.
        latent_channels: c.
        packets: P.
        width: channels of the first stage.
        levels: J.
        boundary: of the codec's wavelet transform.

    Raises:
        CodecError: more than one axis, or no width.
    """

    edge: Tensor

    def __init__(self, ndim: int, latent_channels: int, packets: int, width: int, levels: int, boundary: str):
        super().__init__()
        if ndim != 1 or width < 1:
            raise CodecError(
                f"The oobleck decoder takes signals of one axis and a width of 1 or more, not {ndim} and {width}."
            )
        channels = packets // 2**levels
        self.levels, self.boundary = levels, boundary
        self.register_buffer("edge", torch.zeros(latent_channels, 1))
        self.network = nn.Sequential(
            nn.Conv1d(latent_channels, width, 7, padding=3),
            *_stage(width, width),
            *_stage(width, latent_channels),
            Snake(latent_channels),
            nn.Conv1d(latent_channels, packets, 7, padding=3, bias=False),
        )
        self.post_filter = nn.Conv1d(channels, channels, _TAPS, padding=_TAPS // 2)
        nn.init.dirac_(self.post_filter.weight)
        self.post_filter.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, z: Tensor, step: Tensor) -> Tensor:
        edge = self.edge.expand(len(z), -1, -1)
        packets = self.network(torch.cat((edge, z, edge), 2))
        x = wavelet.synthesis(packets, self.levels, (z.shape[2] * 2**self.levels,), self.boundary)
        return wavelet.analysis(self.post_filter(x), self.levels, self.boundary)
