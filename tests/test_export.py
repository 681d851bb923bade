"""ONNX graphs in onnxruntime against the torch reference: every size, dimension, encoder and quantizer."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import photo

import cml
from cml import cli
from cml.codecs import export
from cml.codecs.architecture import WaveletConfig
from cml.codecs.base import Latent
from cml.codecs.export import MOST_DIFFERENT, MOST_DISTANT, export_onnx
from cml.codecs.neural import WaveletCodec
from cml.codecs.onnx_graph import decoder_model, encoder_model
from cml.errors import CodecError

SIZES = {
    1: [(1,), (5,), (1000,), (40_001,)],
    2: [(1, 1), (1, 9), (7, 5), (33, 70), (64, 64), (301, 402)],
    3: [(1, 1, 1), (3, 5, 2), (17, 20, 9), (40, 33, 26)],
}


def random_codec(ndim: int, channels: int, levels: int, latents: int, step: float, rdo=0.0, sent=None, **fields):
    """A codec of random weights: orthonormal where linear, so that what it decodes looks like the signal."""
    config = WaveletConfig(
        ndim=ndim, channels=channels, levels=levels, latent_channels=latents, latent_mean=(0.0,) * latents,
        latent_std=(1.0,) * latents, step=step, rdo=rdo, **fields,
    )  # fmt: skip
    torch.manual_seed(0)
    codec = WaveletCodec(config, "random", channels=sent)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "norm" in name or "bias" in name or "leave" in name or "gain" in name:
                parameter.add_(torch.randn_like(parameter) / 20)
            if name == "quantizer.sigma":
                parameter.mul_(torch.rand_like(parameter) + 0.5)
        basis = torch.linalg.qr(torch.randn(config.packet_channels, latents)).Q
        state = codec.state_dict()
        for name, weight in (("encoder", basis.T), ("decoder", basis), ("decoder.linear", basis)):
            if state.get(f"{name}.weight", basis[:0]).shape == weight.shape:
                state[f"{name}.weight"].copy_(weight)
        if "encoder.order" in state:
            state["encoder.order"].copy_(torch.randperm(config.packet_channels))
        if "decoder.variance" in state:
            state["decoder.variance"].uniform_(0.1, 2)
    return codec


RANDOM = {
    "1d": dict(ndim=1, channels=2, levels=6, latents=16, step=0.1, rdo=1.0),
    "3d": dict(ndim=3, channels=1, levels=2, latents=20, step=0.1, rdo=1.0, sent=7),
    "levels of their own": dict(ndim=3, channels=1, levels=(1, 2, 2), latents=9, step=0.1, rdo=1.0),
    "one level": dict(ndim=2, channels=2, levels=1, latents=5, step=0.1, sent=3),
    "no level": dict(ndim=2, channels=3, levels=0, latents=2, step=0.1),
    "walloc": dict(ndim=2, channels=3, levels=3, latents=12, step=0.3, quantizer="gaussian", boundary="periodic"),
    "liveaction": dict(
        ndim=2, channels=3, levels=3, latents=12, step=0.2, encoder="factorized", encoder_depth=2, quantizer="laplace",
    ),
    "liveaction 1d": dict(
        ndim=1, channels=1, levels=5, latents=4, step=0.05, encoder="factorized", encoder_depth=1, quantizer="gaussian",
        boundary="periodic", sent=3,
    ),
    "light 3d": dict(
        ndim=3, channels=2, levels=2, latents=9, step=0.2, decoder="light", decoder_width=16, decoder_depth=2, sent=5,
        quantizer="laplace",
    ),
}  # fmt: skip
BUNDLED = ["rgb_f8c12", "gray_f8c4", "rgb_f16c48", "rgb_f8c48:channels=5,step=1,rdo=0"]


def codec_of(name: str) -> WaveletCodec:
    codec = random_codec(**RANDOM[name]) if name in RANDOM else cml.create_codec(name)
    assert isinstance(codec, WaveletCodec)
    return codec


def signal(codec: WaveletCodec, size: tuple[int, ...]) -> torch.Tensor:
    """uint8 (1, C, *size)."""
    pixels = int(np.prod(size))
    flat = photo((size[0], pixels // size[0]), codec.config.channels, seed=pixels)
    return flat.view(1, codec.config.channels, *size)


def run(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {model.graph.input[0].name: x.numpy()})[0])


@torch.no_grad()
def reference(codec: WaveletCodec, x: torch.Tensor) -> torch.Tensor:
    return codec.quantize(codec.analysis(x.float() / 127.5 - 1))


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("name", [*BUNDLED, *RANDOM])
def test_the_encoder_makes_the_symbols_of_the_reference(name, uint8):
    codec = codec_of(name)
    model = encoder_model(codec, uint8)
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain for item in model.opset_import} == {""}
    different = symbols = 0
    for size in SIZES[codec.config.ndim]:
        x = signal(codec, size)
        found, expected = run(model, x if uint8 else x.float() / 127.5 - 1), reference(codec, x).numpy()
        assert found.dtype == np.int16 and found.shape == expected.shape
        distance = np.abs(found.astype(int) - expected)
        assert distance.max() <= 1
        different, symbols = different + np.count_nonzero(distance), symbols + distance.size
        if size == SIZES[codec.config.ndim][-1]:
            assert len(np.unique(expected)) > 9
    # Fewer than 10,000 symbols may hold one that lies on the edge.
    assert different <= max(1, MOST_DIFFERENT * symbols)


@pytest.mark.parametrize("name", [*BUNDLED, *RANDOM])
@torch.no_grad()
def test_the_decoder_makes_the_signal_of_the_reference(name):
    codec = codec_of(name)
    model = decoder_model(codec)
    onnx.checker.check_model(model, full_check=True)
    for size in SIZES[codec.config.ndim]:
        symbols = reference(codec, signal(codec, size))
        latent = Latent(symbols[0], (codec.config.channels, *size), codec.codec_id, float(np.float32(codec.step)),
                        torch.zeros(codec.channels), torch.ones(codec.channels))  # fmt: skip
        found = torch.from_numpy(run(model, symbols.short()))[0]
        assert found.shape[1:] == tuple(n * m for n, m in zip(symbols.shape[2:], codec.config.cell, strict=True))
        cropped = found[(slice(None), *(slice(n) for n in size))]
        assert torch.allclose(cropped, codec.decode(latent), rtol=0, atol=MOST_DISTANT)
        assert 0 < cropped.abs().mean() < 0.99


def test_symbols_that_no_encoder_makes():
    """Past the range of a companding quantizer they expand to its end, as in the reference, not to infinity."""
    for name in ("liveaction", "walloc"):
        codec = codec_of(name)
        symbols = torch.full((1, 12, 1, 1), 32767, dtype=torch.int16)
        z = codec.quantizer.expand(symbols * codec.step)
        with torch.no_grad():
            expected = codec.synthesis(symbols * codec.step, (8, 8)).clamp(-1, 1)
        assert z.isfinite().all()
        assert np.allclose(run(decoder_model(codec), symbols), expected, rtol=0, atol=1e-4)


def test_symbols_past_16_bits_saturate():
    codec = cml.create_codec("gray_f8c4:step=1e-5")
    assert isinstance(codec, WaveletCodec)
    found = run(encoder_model(codec), torch.full((1, 1, 64, 64), -1.0))
    assert np.abs(found.astype(int)).max() == 32767
    with pytest.raises(CodecError, match="larger step"):
        export_onnx(codec, "nowhere.onnx")


@pytest.mark.parametrize("name", ["rgb_f8c12:step=0.3", "rgb_f8c48:channels=9"])
def test_symbols_and_metadata_make_a_container(name):
    """What a sensor without cml sends becomes the file that `compress` writes."""
    codec = cml.create_codec(name)
    assert isinstance(codec, WaveletCodec)
    model = encoder_model(codec, uint8=True)
    facts = {item.key: item.value for item in model.metadata_props}
    x = photo((75, 101))
    symbols = torch.from_numpy(run(model, x[None]))[0]
    assert len(symbols) == int(facts["channels"])
    assert symbols.abs().max() <= 127
    c = len(symbols)
    latent = Latent(symbols.char(), tuple(x.shape), facts["codec_id"], float(facts["step"]), torch.zeros(c),
                    torch.ones(c))  # fmt: skip
    theirs, ours = cml.create_codec(facts["codec"]).pack(latent), codec.compress(x)
    assert abs(len(theirs) - len(ours)) < 4
    assert (cml.decompress(theirs) - cml.decompress(ours)).abs().mean() < 1e-3


def cml_export(monkeypatch, capsys, *arguments, expect: int) -> str:
    monkeypatch.setattr(sys, "argv", ["cml", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    text = "".join(capsys.readouterr())
    assert (caught.value.code or 0) == expect and "Traceback" not in text
    return text


def test_command(monkeypatch, capsys, tmp_path):
    target = tmp_path / "new" / "sensor.onnx"
    text = cml_export(monkeypatch, capsys, "rgb_f8c12:step=0.5", "--onnx", target, "--uint8", expect=0)
    first, second = text.strip().splitlines()
    assert "sensor.onnx: " in first and "signal uint8 (1, 3, height, width)" in first
    assert "symbols int16 (1, 12, grid_height, grid_width)" in first and "symbols differ from the reference" in first
    assert "sensor.decoder.onnx: " in second and "differs from the reference" in second
    assert sorted(path.name for path in target.parent.iterdir()) == ["sensor.decoder.onnx", "sensor.onnx"]
    x = photo((20, 30))
    codec = codec_of("rgb_f8c12:step=0.5")
    assert np.abs(run(onnx.load(str(target)), x[None]) - reference(codec, x[None]).numpy()).max() <= 1


def test_a_decoder_of_another_kind_stays_with_cml(tmp_path):
    codec = random_codec(2, 3, 2, 4, 0.1, decoder="residual", decoder_width=32)
    assert [file.path.name for file in export_onnx(codec, tmp_path / "a.onnx")] == ["a.onnx"]
    with pytest.raises(CodecError, match="not residual"):
        decoder_model(codec)


def test_errors_are_sentences(monkeypatch, capsys, tmp_path):
    target = tmp_path / "a.onnx"
    assert "jpeg:quality=75 is no wavelet codec" in cml_export(monkeypatch, capsys, "jpeg", "--onnx", target, expect=2)
    for folder in (tmp_path, "."):
        assert "Cannot write" in cml_export(monkeypatch, capsys, "gray_f8c4", "--onnx", folder, expect=2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        text = cml_export(patch, capsys, "rgb_f8c12", "--onnx", target, expect=2)
        assert "needs the package onnx: pip install 'cml-toolkit[export]'" in text
    assert not target.exists()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "not compared" in cml_export(monkeypatch, capsys, "gray_f8c4", "--onnx", target, expect=0)
    assert target.exists()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_graph_that_differs_is_not_written(monkeypatch, tmp_path, part):
    """The graph of other weights, as a fault of the exporter would make it."""
    other = cml.create_codec("rgb_f8c12")
    assert isinstance(other, WaveletCodec)
    with torch.no_grad():
        next(getattr(other, part).parameters()).mul_(1.01)
    make = {"encoder": lambda codec, uint8: encoder_model(other, uint8), "decoder": lambda codec: decoder_model(other)}
    monkeypatch.setattr(export, f"{part}_model", make[part])
    with pytest.raises(CodecError, match=f"exported {part} is not the codec's"):
        export_onnx(cml.create_codec("rgb_f8c12"), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
