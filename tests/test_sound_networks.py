"""Neural codecs of sound: those of transformers with tiny random weights, and Lyra with its real ones."""

import logging
import math
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hum

import cml
from cml.codecs.bitstream import Container
from cml.codecs.sound_neural import pack_bits, unpack_bits
from cml.errors import BitstreamError, CmlError, CodecError

SMALL = {
    "num_filters": 4, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 16, "num_lstm_layers": 1,
    "upsampling_ratios": [4, 4, 2],
}  # fmt: skip


def make(kind, folder):
    """A network of a kind with random weights, as transformers saves it."""
    import transformers
    from transformers.utils import logging as their_logging

    their_logging.disable_progress_bar()
    torch.manual_seed(0)
    if kind == "encodec":
        config = transformers.EncodecConfig(**SMALL, target_bandwidths=[5.0, 18.0])
        transformers.EncodecModel(config).save_pretrained(folder)
    elif kind == "encodec stereo":
        config = transformers.EncodecConfig(
            **SMALL, target_bandwidths=[30.0, 60.0], audio_channels=2, sampling_rate=48000,
            normalize=True, chunk_length_s=0.1, overlap=0.01, norm_type="time_group_norm",
        )  # fmt: skip
        transformers.EncodecModel(config).save_pretrained(folder)
    elif kind == "dac":
        config = transformers.DacConfig(
            encoder_hidden_size=8, decoder_hidden_size=32, downsampling_ratios=[2, 4],
            n_codebooks=3, codebook_size=32, codebook_dim=4, sampling_rate=16000,
        )  # fmt: skip
        transformers.DacModel(config).save_pretrained(folder)
    else:
        config = transformers.MimiConfig(
            num_filters=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            head_dim=16, intermediate_size=32, codebook_size=32, codebook_dim=16, num_quantizers=4,
            num_semantic_quantizers=1, vector_quantization_hidden_dimension=16, upsample_groups=32,
        )  # fmt: skip
        transformers.MimiModel(config).save_pretrained(folder)
    return f"{kind.split()[0]}:{folder}"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("networks")
    return {kind: make(kind, root / kind.replace(" ", "-")) for kind in ("encodec", "encodec stereo", "dac", "mimi")}


KINDS = ["encodec", "encodec stereo", "dac", "mimi"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_length_and_rate_comes_back_from_its_bytes(names, kind):
    for options in ("", ",rate=16000", ",codebooks=1"):
        codec = cml.create_codec(names[kind] + options)
        assert cml.create_codec(codec.spec.name).spec == codec.spec
        for channels in {1, 2} & set(codec.spec.channels):
            for length in (1, 2, 333, 9001):
                x = hum(length).repeat(channels, 1)
                blob = codec.compress(x)
                x_hat = codec.decompress(blob)
                assert x_hat.shape == x.shape and x_hat.abs().max() <= 1
                assert codec.compress(x) == blob
                # Found by its id, at whatever operating point the network was made last.
                assert torch.equal(cml.decompress(blob), x_hat)


@pytest.mark.parametrize(
    ("kind", "rate", "hop", "bits"), [("encodec", 24000, 32, 6), ("dac", 16000, 8, 5), ("mimi", 24000, 1920, 5)]
)
def test_the_payload_is_the_bits_of_the_codes(names, kind, rate, hop, bits):
    x = hum(rate)
    for codebooks in (1, 3):
        blob = cml.create_codec(names[kind], rate=rate, codebooks=codebooks).compress(x)
        assert len(Container.unpack(blob).payload) == math.ceil(math.ceil(rate / hop) * codebooks * bits / 8)
        assert len(blob) - len(Container.unpack(blob).payload) <= 32


def test_codes_are_those_of_the_network(names):
    from transformers import EncodecModel

    codec = cml.create_codec(names["encodec"], rate=24000)
    x = hum(3200)
    network: Any = EncodecModel.from_pretrained(names["encodec"].partition(":")[2]).eval()
    with torch.no_grad():
        encoded = network.encode(x[None], bandwidth=18.0)
        heard = network.decode(encoded.audio_codes, encoded.audio_scales).audio_values[0]
    codes = unpack_bits(Container.unpack(codec.compress(x)).payload, 6, (1, 4, 100))
    assert np.array_equal(codes, encoded.audio_codes[0].numpy())
    assert torch.allclose(codec.decompress(codec.compress(x)), heard.clamp(-1, 1), atol=1e-5)


def test_parts_of_a_second_each_have_their_level(names):
    codec = cml.create_codec(names["encodec stereo"], rate=48000)
    x = hum(12_000).repeat(2, 1)  # parts of 4800 samples, 4752 apart
    payload = Container.unpack(codec.compress(x)).payload
    scales = np.frombuffer(payload[:12], "<f4")
    want = [float(x[0, start : start + 4800].square().mean().sqrt()) for start in (0, 4752, 9504)]
    assert np.allclose(scales, want, rtol=1e-3)
    with pytest.raises(CodecError, match="takes 2 channel"):
        codec.compress(x[:1])


def test_a_channel_does_not_depend_on_its_neighbours(names):
    codec = cml.create_codec(names["dac"], rate=16000)
    x = torch.cat([hum(4000), hum(4000, 2), hum(4000, 5)])
    together = codec.decompress(codec.compress(x))
    alone = torch.cat([codec.decompress(codec.compress(x[i : i + 1])) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_bits_are_packed_and_unpacked():
    generator = np.random.default_rng(0)
    for bits in (1, 4, 10, 11):
        codes = generator.integers(0, 1 << bits, (2, 3, 7))
        packed = pack_bits(codes, bits)
        assert len(packed) == -(-42 * bits // 8)
        assert np.array_equal(unpack_bits(packed, bits, codes.shape), codes)
        with pytest.raises(BitstreamError, match="codes that the header promises"):
            unpack_bits(packed[:-1], bits, codes.shape)


def test_damaged_and_foreign_bytes_are_refused(names):
    codec = cml.create_codec(names["mimi"])
    blob = codec.compress(hum(5000))
    other = cml.create_codec(names["dac"]).compress(hum(5000))
    for bad in (b"", b"nothing", blob[: len(blob) // 2], other):
        with pytest.raises(BitstreamError):
            codec.decompress(bad)


def test_what_is_no_such_network_gets_a_sentence(names, tmp_path):
    folder = names["dac"].partition(":")[2]
    for name, sentence in (
        ("dac:", "name their folder, dac:FOLDER"), ("mimi:nowhere", "bring both"),
        (f"mimi:{folder}", "the type dac, and mimi: reads MimiModel: use dac:"),
        (names["dac"] + ",codebooks=4", "from 1 to 3"), (names["dac"] + ",rate=0", "as rate"),
        (names["dac"] + ",kbps=6", "codebooks, rate"),
    ):  # fmt: skip
        with pytest.raises(CmlError, match=sentence):
            cml.create_codec(name)
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CmlError, match="Cannot read the network"):
        cml.create_codec(f"dac:{tmp_path / 'cut'}")
    shutil.copytree(folder, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"codebook_dim": 4', '"codebook_dim": 5'))
    with pytest.raises(CmlError, match="does not hold the weights of its config"):
        cml.create_codec(f"dac:{tmp_path / 'other'}")


def test_without_a_network_the_hub_gets_a_sentence(monkeypatch):
    import huggingface_hub

    def unreachable(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CmlError, match="Cannot fetch 'facebook/encodec_24khz' from the Hugging Face hub"):
        cml.create_codec("encodec:hf:facebook/encodec_24khz")


# Lyra


@pytest.fixture(scope="module")
def lyra(data):
    pytest.importorskip("ai_edge_litert")
    if not (data / "weights" / "lyra").is_dir():
        pytest.skip("needs the weights of Lyra in weights/lyra below CML_DATA")
    return f"lyra:{data / 'weights' / 'lyra'}"


def test_lyra_has_its_bit_rates_and_is_in_step(lyra, data):
    x = hum(16_000)
    for kbps in (3.2, 6, 9.2):
        codec = cml.create_codec(lyra, kbps=kbps)
        blob = codec.compress(x)
        assert len(Container.unpack(blob).payload) == round(kbps * 1000 / 8)
        x_hat = codec.decompress(blob)
        assert x_hat.shape == x.shape
        # No state is left of the signal before.
        assert codec.compress(x) == blob and torch.equal(cml.decompress(blob), x_hat)
        levels = torch.stack([signal.view(-1, 400).square().mean(1).log() for signal in (x[0], x_hat[0])])
        assert torch.corrcoef(levels)[0, 1] > 0.9


def test_lyra_takes_other_lengths_rates_and_channels(lyra):
    codec = cml.create_codec(lyra, rate=44100)
    for channels, length in ((1, 1), (2, 1000), (1, 5001)):
        x = hum(length).repeat(channels, 1)
        assert codec.decompress(codec.compress(x)).shape == x.shape
    assert cml.create_codec(codec.spec.name).spec == codec.spec
    with pytest.raises(CodecError, match=r"3.2, 6 or 9.2"):
        cml.create_codec(lyra, kbps=4)


def test_lyra_without_files_or_package_gets_a_sentence(lyra, tmp_path, monkeypatch):
    with pytest.raises(CmlError, match=r"soundstream_encoder\.tflite is missing: bring"):
        cml.create_codec(f"lyra:{tmp_path}")
    for name in ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite"):
        (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(CmlError, match="no tflite file"):
        cml.create_codec(f"lyra:{tmp_path}")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(CodecError, match=r"ai-edge-litert: pip install 'cml-toolkit\[sound\]'"):
        cml.create_codec(lyra)
