"""The wavelet codec: symbols, statistics, options, cost."""

import math
from typing import Any

import pytest
import torch
from helpers import photo

import cml
from cml import hub
from cml.codecs.neural import WaveletCodec
from cml.errors import BitstreamError, CodecError


def test_the_same_symbols_for_any_batch_and_mode():
    codec = cml.create_codec("rgb_f8c48")
    assert isinstance(codec, WaveletCodec)
    batch = torch.stack([photo((61, 47), 3, seed) for seed in range(8)])
    alone = [codec.encode(x).symbols for x in batch]
    for training in (False, True):
        together: Any = codec.train(training).encode(batch)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a, b.symbols)


def test_encoder_sizes_are_those_of_walloc():
    def size(name):
        codec = cml.create_codec(name)
        assert isinstance(codec, WaveletCodec)
        return sum(parameter.numel() for parameter in codec.encoder.parameters())

    assert size("rgb_f8c12") == 2316
    assert size("rgb_f8c48") == 9264


def test_a_finer_step_widens_symbols_and_never_wraps():
    x = photo((64, 64)) // 255 * 255  # black and white: the largest coefficients there are
    previous = 0.0
    for step in (0.5, 0.05, 0.005, 0.001):
        codec = cml.create_codec("rgb_f8c48", step=step)
        latent = codec.encode(x)
        assert torch.allclose(codec.decode(latent), codec.decompress(codec.compress(x)))
        peak = latent.symbols.abs().max().item() * latent.step
        assert previous == 0 or abs(peak - previous) < 0.5
        previous = peak
    assert latent.symbols.dtype == torch.int16
    with pytest.raises(CodecError, match="larger step"):
        cml.create_codec("rgb_f8c48", step=1e-5).encode(torch.ones(3, 64, 64))


def test_to_float_undoes_the_step_and_normalizes():
    x = torch.cat([photo((128, 128), 1, seed) for seed in range(1)])
    fine, coarse = (cml.create_codec("gray_f8c16", step=s).encode(x) for s in (0.02, 0.2))
    assert (fine.to_float(normalize=False) - coarse.to_float(normalize=False)).abs().max() < 0.12
    mean = fine.mean[:, None, None]
    assert torch.allclose(fine.to_float() * fine.scale + mean, fine.to_float(normalize=False), atol=1e-5)


def test_statistics_are_those_of_the_training_data(data):
    codec = cml.create_codec("rgb_f8c48", step=0.02)
    files = sorted((data / "codec_train").rglob("*.jpg"))[:40]
    latents = [codec.encode(cml.read_image(f, 3)) for f in files]
    z = torch.cat([latent.to_float(normalize=False).flatten(1) for latent in latents], 1)
    ratio = z.std(1) / latents[0].std
    assert ratio.min() > 0.6 and ratio.max() < 1.5
    assert (z.mean(1) / latents[0].std).abs().max() < 0.3
    everything = torch.cat([latent.to_float().flatten(1) for latent in latents], 1)
    assert everything.std().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("entropy", ["zstd", "rans", "ctx"])
def test_backends_are_a_choice_and_all_decode(entropy):
    x = photo((40, 40))
    writer = cml.create_codec(f"rgb_f8c48:step=0.3,entropy={entropy}")
    assert torch.equal(cml.create_codec("rgb_f8c48").decompress(writer.compress(x)), writer.decode(writer.encode(x)))


def test_gradients_flow_through_analysis_and_synthesis():
    codec = cml.create_codec("gray_f8c4")
    assert isinstance(codec, WaveletCodec)
    x = (photo((24, 24), 1).float() / 127.5 - 1)[None].requires_grad_()
    codec.synthesis(codec.analysis(x), (24, 24)).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_another_codecs_bytes_are_named():
    blob = cml.create_codec("rgb_f8c48").compress(photo((16, 16)))
    with pytest.raises(BitstreamError, match="written by codec"):
        cml.create_codec("rgb_f8c12").decompress(blob)
    with pytest.raises(CodecError, match="was made by codec"):
        cml.create_codec("rgb_f8c12").decode(cml.create_codec("rgb_f8c48").encode(photo((16, 16))))


def test_fewer_channels_are_the_first_ones_and_cost_less():
    x = photo((96, 120))
    whole = cml.create_codec("rgb_f8c48:step=0.3,rdo=0")
    blobs, errors = [], []
    for channels in (48, 24, 6):
        codec = cml.create_codec(f"rgb_f8c48:step=0.3,rdo=0,channels={channels}")
        latent = codec.encode(x)
        assert torch.equal(latent.symbols, whole.encode(x).symbols[:channels])
        assert latent.to_float().shape[0] == codec.spec.latent_channels == channels
        blobs.append(codec.compress(x))
        x_hat = cml.decompress(blobs[-1])  # the container says how many there are
        errors.append(float((x_hat - (x.float() / 127.5 - 1)).square().mean()))
        assert torch.equal(x_hat, codec.decode(codec.unpack(blobs[-1])))
    assert len(blobs[0]) > len(blobs[1]) > len(blobs[2])
    assert errors[0] < errors[2] < 1
    for wrong in (0, 49, 1.5):
        with pytest.raises(CodecError, match="from 1 to 48"):
            cml.create_codec("rgb_f8c48", channels=wrong)


def test_the_encoders_of_bundled_codecs_are_cheap():
    for name in hub.bundled_names():
        codec = cml.create_codec(name)
        assert isinstance(codec, WaveletCodec)
        config = codec.config
        encoder = sum(p.numel() for p in codec.encoder.parameters() if p.dim() > 1) / math.prod(config.cell)
        # Lifting: four steps of one multiplication for each pair, and two gains; every level and axis, every sample.
        transform = config.channels * sum(config.axis_levels) * (4 + 2) / 2
        # A position of more than four channels may cost as much a sample as one of four.
        assert encoder + transform <= 300 * max(1, config.channels / 4), name
