"""TAEF2: its real weights where they are, against the figures of a reference implementation; the contract with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import photo
from test_codecs import (  # noqa: F401  the contract, run on the codecs of this file
    test_a_signal_survives,
    test_bytes_of_another_kind_are_refused,
    test_latents_exist_or_are_refused,
    test_list_in_list_out,
    test_output_has_the_shape_of_the_input,
    test_the_operating_point_makes_the_codec_again,
)

import cml
from cml.codecs.generative import GenerativeCodec
from cml.codecs.taef2 import make_decoder, make_encoder
from cml.errors import BitstreamError, CmlError


@pytest.fixture
def weights(data: Path) -> Path:
    folder = data / "weights" / "taef2"
    if not folder.is_dir():
        pytest.skip(f"needs the weights {folder}")
    return folder


@pytest.fixture(params=["", ",entropy=fp16"])
def codec(request: pytest.FixtureRequest, weights: Path) -> GenerativeCodec:
    codec = cml.create_codec(f"taef2:{weights}{request.param}")
    assert isinstance(codec, GenerativeCodec)
    return codec


def quality(codec: GenerativeCodec, x: torch.Tensor) -> tuple[float, float]:
    """PSNR without rounding to 8 bits, and bits a pixel."""
    from cml.eval.metrics import psnr

    blob = codec.compress(x)
    return psnr(x.float() / 127.5 - 1, codec.decompress(blob), data_range=2), 8 * len(blob) / x[0].numel()


def test_the_reference_reaches_the_same(kodak: list[Path], weights: Path):
    codec = cml.create_codec(f"taef2:{weights}", entropy="fp16")
    assert isinstance(codec, GenerativeCodec)
    for number, wanted in ((1, 27.18), (3, 33.23)):
        reached, rate = quality(codec, cml.read_image(kodak[number - 1]))
        assert reached == pytest.approx(wanted, abs=0.05)
        assert rate == pytest.approx(8, abs=0.01)


def test_the_default_step_costs_little(data: Path, weights: Path):
    names = (f"taef2:{weights}", f"taef2:{weights},entropy=fp16")
    rounded, plain = (cml.create_codec(name) for name in names)
    assert isinstance(rounded, GenerativeCodec) and isinstance(plain, GenerativeCodec)
    files = sorted((data / "codec_train").rglob("*.jpg"))[::24]
    pictures = [cml.read_image(file, 3)[:, :256, :256] for file in files]
    values = np.array([[*quality(rounded, x), *quality(plain, x)] for x in pictures]).mean(0)
    assert 0.1 < values[2] - values[0] < 0.6
    assert 1 < values[1] < 2


def test_latents_have_unit_deviation(data: Path, weights: Path):
    codec = cml.create_codec(f"taef2:{weights}")
    files = sorted((data / "codec_train").rglob("*.jpg"))[::24]
    z = torch.cat([codec.encode(cml.read_image(file, 3)[:, :256, :256]).to_float().flatten(1) for file in files], 1)
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_the_name_alone_finds_the_weights(weights: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CML_DATA", str(weights.parents[1]))
    codec = cml.create_codec("taef2")
    assert codec.spec.name == "taef2:step=0.35"
    assert (codec.spec.latent_channels, codec.spec.patch, codec.spec.dimension_reduction) == (32, 8, 6.0)


def test_shapes_of_any_weights():
    """Three halvings, and three doublings back."""
    z = make_encoder()(torch.zeros(1, 3, 24, 40))
    assert z.shape == (1, 32, 3, 5)
    assert make_decoder()(z).shape == (1, 3, 24, 40)


def random_weights(folder: Path) -> str:
    torch.manual_seed(0)
    torch.save(make_encoder().half().state_dict(), folder / "taef2_encoder.pth")
    torch.save(make_decoder().half().state_dict(), folder / "taef2_decoder.pth")
    return f"taef2:{folder}"


def test_any_weights_of_that_shape_are_read_and_named_by_their_content(tmp_path: Path):
    codec = cml.create_codec(random_weights(tmp_path))
    x = photo((19, 33))
    blob = codec.compress(x)
    assert cml.decompress(blob).shape == x.shape
    assert torch.equal(cml.decompress(blob), codec.decompress(blob))
    state = torch.load(tmp_path / "taef2_decoder.pth", weights_only=True)
    state["19.bias"] += 1
    torch.save(state, tmp_path / "taef2_decoder.pth")
    with pytest.raises(BitstreamError, match="written by codec"):
        cml.create_codec(f"taef2:{tmp_path}").decompress(blob)


def test_weights_that_are_missing_or_others_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CML_DATA", raising=False)
    for name in ("taef2", f"taef2:{tmp_path}"):
        with pytest.raises(CmlError, match=r"bring taef2_encoder\.pth and taef2_decoder\.pth .* set CML_DATA"):
            cml.create_codec(name)
    name = random_weights(tmp_path)
    path = tmp_path / "taef2_decoder.pth"
    whole = path.read_bytes()
    for content in (whole[:-100], b"", (tmp_path / "taef2_encoder.pth").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CmlError, match=r"taef2_decoder\.pth is damaged"):
            cml.create_codec(name)
