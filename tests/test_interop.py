"""Our reading of published checkpoints against the packages that wrote them: the same latents, the same pictures.

Random weights, saved as the authors' notebooks save them. Sizes are those where the wavelet transform of both
packages reconstructs: ten samples or more at each level.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cml.codecs.published import load_published

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomize(model: Any) -> Any:
    """Away from every initial value, so that no weight, bias, norm or width is trivially right."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).clamp(-2, 2)
            parameter.mul_(1 + 0.3 * noise).add_(0.05 * noise.flip(0))
    return model.eval()


def signal(*shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def compare(name: str, x: Tensor, companded: Tensor, decode: Callable[[Tensor], Tensor]) -> None:
    """The codec of that name against their companded latents and their decoder of symbols to [-1, 1].

    In double precision, where only their filters, which have single precision, differ; then the verbs as they are.
    """
    codec = load_published(name).double()
    v = codec.analysis(x)
    assert v.shape == companded.shape
    symbols = v.round()
    assert torch.equal(symbols, companded.round())
    assert symbols.abs().max() > 3
    assert len(symbols.unique()) > 6
    size = tuple(x.shape[2:])
    x_hat, theirs = codec.synthesis(symbols, size), decode(symbols)
    assert theirs.std() > 0.01
    single = load_published(name)
    latent = single.encode(x[0])
    assert (latent.symbols != symbols[0]).float().mean() < 1e-3
    decoded = single.decode(replace(latent, symbols=symbols[0].to(torch.int8)))
    figures = {
        "latents": (v - companded).abs().max().item(),
        "reconstruction": (x_hat - theirs).abs().max().item(),
        "single": (decoded - theirs[0].clamp(-1, 1)).abs().max().item(),
    }
    print(f"{name.partition(':')[0]} {tuple(x.shape)}: {figures}")
    assert max(figures.values()) < 1e-4
    assert torch.equal(single.decompress(single.compress(x[0])), single.decode(latent))
    tiny = x[0][(slice(None), *[slice(1)] * len(size))]
    assert single.decompress(single.compress(tiny)).shape == tiny.shape


def save_walloc(model: Any, path: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> str:
    notebook_class = type("Config", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Config", notebook_class, raising=False)
    config = notebook_class()
    vars(config)["max_lr"] = np.float64(3e-5)
    torch.save({"i_epoch": 3, "config": config, "model_state_dict": model.state_dict()}, path)
    path.with_suffix(".json").write_text(json.dumps(settings))
    model.double()
    return f"walloc:{path}"


@pytest.mark.parametrize(
    ("levels", "width", "latent_dim", "bits", "size"),
    [(1, 32, 4, 8, (10, 16)), (3, 64, 12, 8, (48, 40)), (2, 32, 9, 4, (24, 20))],
)
@torch.no_grad()
def test_walloc_pictures(tmp_path, monkeypatch, levels, width, latent_dim, bits, size):
    walloc = pytest.importorskip("walloc.walloc")
    settings = {"channels": 3, "J": levels, "Ne": 0, "Nd": width, "latent_dim": latent_dim, "latent_bits": bits}
    settings |= {"lightweight_encode": True}
    model = randomize(walloc.Codec2D(**settings))
    model.encoder[0].weight.mul_(2 ** (bits - 1))
    name = save_walloc(model, tmp_path / "RGB_16x.pth", monkeypatch, **settings)
    x = signal(3, *size)
    companded = model.encoder[:2](model.wavelet_analysis(x / 2, levels))
    compare(name, x, companded, lambda z: 2 * model.wavelet_synthesis(model.decoder(z), levels))


@pytest.mark.parametrize("post_filter", [True, False])
@torch.no_grad()
def test_walloc_sound(tmp_path, monkeypatch, post_filter):
    walloc = pytest.importorskip("walloc.walloc")
    settings = {"channels": 2, "J": 3, "Ne": 0, "Nd": 24, "latent_dim": 6, "latent_bits": 8}
    settings |= {"lightweight_encode": True, "post_filter": post_filter}
    model = randomize(walloc.Codec1D(**settings))
    model.encoder[0].weight.mul_(20)
    model.encoder[0].bias.mul_(50)
    name = save_walloc(model, tmp_path / "stereo_5x.pth", monkeypatch, **settings)
    x = signal(2, 120)
    companded = model.encoder[:2](model.wavelet_analysis(x / 2, 3))
    edge = companded[..., :1].round()

    def decode(symbols: Tensor) -> Tensor:
        y = model.wavelet_synthesis(model.decoder(torch.cat((edge, symbols, edge), 2)), 3)
        return 2 * (model.post(y) if post_filter else y)

    assert edge.abs().max() > 1
    assert torch.equal(edge, companded[..., -1:].round())
    compare(name, x, companded[..., 1:-1], decode)


@torch.no_grad()
def test_walloc_linear(tmp_path, monkeypatch):
    walloc = pytest.importorskip("walloc.walloc")
    settings = {"channels": 3, "J": 2, "latent_dim": 8, "latent_bits": 8}
    model = randomize(walloc.LinearCodec2D(**settings))
    model.encoder[0].weight.mul_(20)
    name = save_walloc(model, tmp_path / "linear.pth", monkeypatch, **settings)
    x = signal(3, 20, 32)
    companded = model.encoder[:2](model.wavelet_analysis(x / 2, 2))
    compare(name, x, companded, lambda z: 2 * model.wavelet_synthesis(model.decoder(z), 2))


@pytest.mark.parametrize(
    ("channels", "levels", "latent_dim", "size"),
    [(1, 5, 8, (320,)), (2, 5, 4, (160,)), (3, 2, 12, (20, 24)), (3, 3, 6, (48, 40)), (1, 2, 8, (20, 24, 28))],
)
@torch.no_grad()
def test_livecodec(tmp_path, channels, levels, latent_dim, size):
    livecodec = pytest.importorskip("livecodec.codec")
    config = SimpleNamespace(F=2**levels, latent_dim=latent_dim, input_channels=channels, max_lr=np.float64(3e-4))
    model = randomize(
        livecodec.AutoCodecND(
            dim=len(size),
            input_channels=channels,
            J=levels,
            latent_dim=latent_dim,
            encoder_depth=2,
            encoder_kernel_size=1,
            decoder_depth=3,
        )
    )
    model.conv_down.conv2.weight.mul_(20)
    path = tmp_path / "lsdir_f16c48.pth"
    torch.save({"valid_metrics": {"psnr": [30.1]}, "config": config, "state_dict": model.state_dict()}, path)
    x, model = signal(channels, *size), model.double()
    compare(f"livecodec:{path}", x, model.quantize.compand(model.encode(x)), model.decode)
