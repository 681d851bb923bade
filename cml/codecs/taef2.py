"""TAEF2, the tiny autoencoder of FLUX.2 latents (Bohan, MIT): 1.3 million parameters each way, f8c32.

taef2                from CML_DATA/weights/taef2
taef2:FOLDER         from a folder of taef2_encoder.pth and taef2_decoder.pth (github.com/madebyollin/taesd)
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from cml import hub
from cml.codecs.generative import GenerativeCodec
from cml.errors import CmlError

CHANNELS, WIDTH, PATCH = 32, 64, 8
_FILES = ("taef2_encoder.pth", "taef2_decoder.pth")
_LIMIT = 3.0  # of the latents that the decoder reads


class _Block(nn.Module):
    """Three convolutions, with a residual branch of the whole picture's statistics before them at the coarsest grid."""

    def __init__(self, coarsest: bool = False):
        super().__init__()
        layers: list[nn.Module] = [nn.ReLU() if i % 2 else _convolution(WIDTH, WIDTH) for i in range(5)]
        self.conv = nn.Sequential(*layers)
        wide = 4 * WIDTH
        self.pool = (
            nn.Sequential(
                nn.Conv2d(WIDTH, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, WIDTH, 1, bias=False),
            )
            if coarsest
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class _Limit(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z / _LIMIT) * _LIMIT


def _convolution(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def _halve() -> nn.Conv2d:
    return _convolution(WIDTH, WIDTH, stride=2, bias=False)


def _double() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), _convolution(WIDTH, WIDTH, bias=False)]


def make_encoder() -> nn.Sequential:
    """(B, 3, H, W) in [0, 1], sides multiples of 8, to latents (B, 32, H/8, W/8)."""
    return nn.Sequential(
        _convolution(3, WIDTH),
        _Block(),
        *(_halve(), _Block(), _Block(), _Block()),
        *(_halve(), _Block(), _Block(), _Block()),
        *(_halve(), _Block(True), _Block(True), _Block(True)),
        _convolution(WIDTH, CHANNELS),
    )


def make_decoder() -> nn.Sequential:
    """Latents (B, 32, h, w) to (B, 3, 8h, 8w), [0, 1] but for overshoot."""
    return nn.Sequential(
        *(_Limit(), _convolution(CHANNELS, WIDTH), nn.ReLU()),
        *(_Block(True), _Block(True), _Block(True), *_double()),
        *(_Block(), _Block(), _Block(), *_double()),
        *(_Block(), _Block(), _Block(), *_double()),
        *(_Block(), _convolution(WIDTH, 3)),
    )


class Taef2(GenerativeCodec):
    """TAEF2 at a quantization step.

    Its latents have deviations of 0.57 to 1.02 and means of -0.25 to 0.29 over the training photos; one deviation
    stands in for all.

    Args:
        name: what makes this codec again.
        encoder, decoder: as `make_encoder` and `make_decoder` give them, with weights.
        step: quantization step; None for 0.35, which cost the training photos 0.4 dB against no rounding (1.5 bpp).
        entropy: as for every `GenerativeCodec`.
    """

    def __init__(
        self,
        name: str,
        encoder: nn.Sequential,
        decoder: nn.Sequential,
        step: float | None = None,
        entropy: str | None = None,
    ):
        super().__init__(
            name,
            nn.ModuleDict({"encoder": encoder, "decoder": decoder}),
            channels=3,
            patch=PATCH,
            mean=torch.zeros(CHANNELS),
            std=torch.full((CHANNELS,), 0.81),
            config={"network": "taef2"},
            settings={"network": "taef2"},
            default_step=0.35,
            step=step,
            entropy=entropy,
        )

    def analysis(self, x: Tensor) -> Tensor:
        return self.network.get_submodule("encoder")((x + 1) / 2)

    def synthesis(self, z: Tensor) -> Tensor:
        return self.network.get_submodule("decoder")(z) * 2 - 1


def load_taef2(name: str, step: float | None = None, entropy: str | None = None) -> Taef2:
    """The codec of "taef2" or "taef2:FOLDER".

    Raises:
        CmlError: the weights are missing or not those of TAEF2.
    """
    given = name.partition(":")[2]
    folder = Path(given) if given else Path(os.environ.get("CML_DATA", "")) / "weights" / "taef2"
    networks = make_encoder(), make_decoder()
    for network, file in zip(networks, _FILES, strict=True):
        path = folder / file
        if not path.is_file():
            raise CmlError(
                f"The weights {path} are missing: bring {' and '.join(_FILES)} (github.com/madebyollin/taesd) in a "
                "folder and name it, taef2:FOLDER, or set CML_DATA to the folder that holds weights/taef2."
            )
        state = hub.read_checkpoint(path)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise CmlError(f"{path} is damaged, or not the weights of TAEF2; fetch it again.") from error
    return Taef2(name, *networks, step=step, entropy=entropy)
