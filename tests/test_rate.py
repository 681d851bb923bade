"""Rate control: the nearest to a rate, and the best within a number of bytes."""

import numpy as np
import pytest
import torch
from helpers import photo

import cml
from cml.codecs.factory import CODECS
from cml.codecs.rate import fit_bytes, match_rate, steering
from cml.errors import CodecError

STEERED = ["jpeg", "webp", "avif", "jpegxl", "heic", "jpegls", "bits", "jpeg2000", "resize", "rgb_f8c48"]
COARSE = {"resize", "bits"}
"""Codecs of few rates, which may be far from a target."""
OF_SOUND = {"opus", "mp3", "aac", "vorbis", "resample"}
"""Searched in the tests of the codecs of sound."""
OF_THREE_AXES = {
    "slices-jpeg2000": 0.8, "slices-jpegxl": 1.5, "slices-hevc": 0.8, "zfp": 2, "sz3": 0.8, "sperr": 0.8,
    "downsample": 0.8, "x264": 0.8, "x265": 0.8, "vp9": 0.8, "av1": 0.8, "frames-jpeg": 1.5, "frames-avif": 1.5,
    "decimate": 2,
}  # fmt: skip
"""A rate that each can have on a small noisy signal, bits a voxel."""
UNSTEERED = {"identity", "flac", "png", "webp-lossless", "vq"}


def test_every_codec_with_more_than_one_rate_is_steered():
    for name in cml.list_codecs():
        assert (steering(name) is None) == (name in UNSTEERED), name
    assert {*STEERED, *OF_SOUND, *OF_THREE_AXES} >= set(CODECS.names()) - UNSTEERED


@pytest.mark.parametrize("name", STEERED)
def test_a_rate_is_found(name):
    x = photo((160, 160))
    codec, blob = match_rate(name, x, 0.8)
    assert codec.compress(x) == blob
    assert 0.3 < 8 * len(blob) / 160**2 / 0.8 < 1.6 if name in COARSE else abs(8 * len(blob) / 160**2 - 0.8) < 0.15


@pytest.mark.parametrize("name, wanted", OF_THREE_AXES.items())
def test_a_rate_is_found_in_three_axes(name, wanted):
    """By options that these codecs have in coarse steps, and on a signal of a few blocks of theirs."""
    rng = np.random.default_rng(0)
    slices = np.stack([photo((64, 64)).numpy().mean(0) + rng.normal(size=(64, 64)) * 4 + n for n in range(8)])
    x = torch.from_numpy(slices.clip(0, 255).astype(np.uint8))[None]
    x = x.expand(3, -1, -1, -1) if 1 not in cml.create_codec(name).spec.channels else x
    codec, blob = match_rate(name, x, wanted)
    assert codec.compress(x) == blob
    assert 0.6 < 8 * len(blob) / x[0].numel() / wanted < 1.6


def test_no_neighbour_is_nearer():
    x = photo((96, 96))
    _, blob = match_rate("jpeg", x, 1.3)
    best = abs(8 * len(blob) / 96**2 - 1.3)
    for quality in range(1, 101):
        size = len(cml.create_codec("jpeg", quality=quality).compress(x))
        assert abs(8 * size / 96**2 - 1.3) >= best


@pytest.mark.parametrize("name", STEERED)
def test_as_many_bytes_as_fit(name):
    x = photo((160, 160))
    codec, blob = fit_bytes(name, x, 4000)
    assert len(blob) <= 4000 and codec.compress(x) == blob
    assert len(blob) > (2000 if name in COARSE else 3400)


def test_the_next_quality_would_not_fit():
    x = photo((96, 96))
    for limit in (700, 1500, 4000):
        _, blob = fit_bytes("jpeg", x, limit)
        sizes = [len(cml.create_codec("jpeg", quality=quality).compress(x)) for quality in range(1, 101)]
        assert len(blob) == max(size for size in sizes if size <= limit)


def test_other_options_are_kept_and_the_steering_one_is_searched():
    codec, _ = match_rate("jpeg:quality=99,subsampling=4:4:4", photo((96, 96)), 1.0)
    assert "subsampling=4:4:4" in codec.spec.name and "quality=99" not in codec.spec.name


@pytest.mark.parametrize("name", STEERED)
def test_the_ends_of_the_range(name):
    """A target past an end gives that end; nothing below the coarsest operating point fits."""
    x = photo((64, 64))
    steer = steering(name)
    assert steer is not None
    coarsest = len(cml.create_codec(name, **{steer.option: steer.low}).compress(x))
    assert len(match_rate(name, x, 1e-3)[1]) <= coarsest
    assert steer.option in fit_bytes(name, x, 10**9)[0].spec.name
    with pytest.raises(CodecError, match="does not fit into 4 bytes"):
        fit_bytes(name, x, 4)


def test_the_finest_point_is_reached_when_all_fit():
    assert fit_bytes("jpeg", photo((64, 64)), 10**6)[0].spec.name == "jpeg:quality=100"
    name = fit_bytes("rgb_f8c12", photo((64, 64)), 10**6)[0].spec.name
    assert float(name.partition("step=")[2]) <= 0.0102


def test_what_cannot_be_steered_is_refused():
    x = photo((16, 16))
    with pytest.raises(CodecError, match="one rate only"):
        match_rate("identity", x, 1.0)
    for bpp in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CodecError, match="above 0"):
            match_rate("jpeg", x, bpp)
