"""Latents augmented as they are, against the latents of the augmented signals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from cml.eval.augment_bench import OPERATIONS, augment_table, markdown
from helpers import photo
from torch import Tensor

from cml.codecs.architecture import WaveletConfig
from cml.codecs.base import to_unit
from cml.codecs.factory import create_codec
from cml.codecs.geometry import pad_to_multiple
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.neural import WaveletCodec
from cml.data.augment import LatentAugment, LatentOperators
from cml.errors import CmlError, CodecError, DataError

BUNDLED = ("gray_f8c4", "gray_f8c16", "rgb_f8c12", "rgb_f8c48", "rgb_f16c12", "rgb_f16c48")


def complete(ndim: int = 2, levels: int = 2, boundary: str = "symmetric", quantizer: str = "uniform") -> WaveletCodec:
    """A codec with as many latent channels as packets, mixed at random, and a bias."""
    count = 2 ** (ndim * levels)
    statistics = torch.linspace(-0.5, 0.5, count), torch.linspace(2, 1, count)
    decoder = {"uniform": "linear", "gaussian": "residual", "laplace": "attention"}[quantizer]
    config = WaveletConfig(
        ndim, 1, levels, count, *(tuple(t.tolist()) for t in statistics), step=0.25, boundary=boundary,
        quantizer=quantizer, decoder=decoder, decoder_width=32, decoder_depth=1,
    )  # fmt: skip
    codec = WaveletCodec(config, "complete")
    assert isinstance(codec.encoder, LinearEncoder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        mixing = torch.linalg.qr(torch.randn(count, count, generator=generator)).Q
        codec.encoder.weight.copy_(torch.linspace(1, 2, count)[:, None] * mixing)
        codec.encoder.bias.copy_(torch.randn(count, generator=generator))
        if isinstance(codec.decoder, LinearDecoder):  # wrong on purpose: operators need a decoder that undoes
            codec.decoder.weight.copy_(torch.randn(count, count, generator=generator))
            codec.decoder.bias.copy_(torch.randn(count, generator=generator))
    return codec


def signals(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def normalized(codec: WaveletCodec, x: Tensor) -> Tensor:
    """The latents of a batch before rounding, as `to_float` would give them."""
    with torch.no_grad():
        z = codec.analysis(x)[:, : codec.channels]
    mean, std = (torch.tensor(v)[: codec.channels] for v in (codec.config.latent_mean, codec.config.latent_std))
    return (z - mean.view(-1, *[1] * codec.config.ndim)) / std.square().mean().sqrt()


def photos(codec: WaveletCodec, side: int = 192) -> Tensor:
    pictures = [to_unit(photo((side, side), codec.config.channels, seed)) for seed in range(2)]
    return torch.stack([pictures[0], pictures[1].flip(-2).contiguous()])


def error(z: Tensor, reference: Tensor) -> float:
    """Relative to the deviation of the latents from their mean over the grid."""
    return float((z - reference).norm() / (reference - reference.mean((2, 3), keepdim=True)).norm())


@pytest.mark.parametrize("boundary", ["symmetric", "periodic"])
@pytest.mark.parametrize(
    ("levels", "grid"),
    [
        (0, (5,)),
        (1, (1,)),
        (1, (40,)),
        (4, (16,)),
        (2, (3, 5)),
        (1, (15, 14)),
        (3, (17, 2)),
        (2, (16, 31)),
        (1, (4, 16, 2)),
    ],
)
def test_flips_of_complete_latents_are_exact(levels: int, grid: tuple[int, ...], boundary: str):
    codec = complete(len(grid), levels, boundary)
    operators = LatentOperators(codec)
    x = signals(*(n * 2**levels for n in grid))
    for axis in range(-len(grid), 0):
        flipped = operators.flip(normalized(codec, x), axis)
        assert torch.allclose(flipped, normalized(codec, x.flip(axis)), atol=2e-5)


@pytest.mark.parametrize("boundary", ["symmetric", "periodic"])
def test_transpositions_and_quarter_turns_of_complete_latents_are_exact(boundary: str):
    codec = complete(boundary=boundary)
    operators, x = LatentOperators(codec), signals(68, 24)
    z = normalized(codec, x)
    assert torch.allclose(operators.transpose(z), normalized(codec, x.mT), atol=2e-5)
    for turns in range(-1, 5):
        turned = normalized(codec, torch.rot90(x, turns, (-2, -1)))
        assert torch.allclose(operators.quarter_turn(z, turns), turned, atol=3e-5)
    volume = complete(3, 1)
    x = signals(6, 8, 10)
    for axes in ((-3, -1), (-2, -3), (-1, -2)):
        exchanged = LatentOperators(volume).transpose(normalized(volume, x), *axes)
        assert torch.allclose(exchanged, normalized(volume, x.transpose(*axes)), atol=2e-5)


@pytest.mark.parametrize("quantizer", ["gaussian", "laplace"])
def test_companded_latents_are_flipped_and_mixed_exactly(quantizer: str):
    codec = complete(levels=3, quantizer=quantizer)
    operators, x = LatentOperators(codec), signals(72, 32)
    z, other = normalized(codec, x), normalized(codec, x.flip(0))
    assert torch.allclose(operators.flip(z), normalized(codec, x.flip(-1)), atol=1e-4)
    mixed = operators.mix(z, other, torch.tensor([0.3, 0.9]))
    share = torch.tensor([0.3, 0.9]).view(-1, 1, 1, 1)
    assert torch.allclose(mixed, normalized(codec, share * x + (1 - share) * x.flip(0)), atol=1e-4)


def test_the_padded_signal_is_what_is_flipped():
    codec, x = complete(), signals(70, 21)
    flipped = LatentOperators(codec).flip(normalized(codec, x))
    assert torch.allclose(flipped, normalized(codec, pad_to_multiple(x, 2, 4).flip(-1)), atol=2e-5)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_codecs_stay_close(name: str):
    codec = create_codec(name)
    assert isinstance(codec, WaveletCodec)
    operators, x = LatentOperators(codec), photos(codec)
    z = normalized(codec, x)
    for axis in (-1, -2):
        reference = normalized(codec, x.flip(axis))
        assert error(operators.flip(z, axis), reference) < 0.1
        assert error(operators.flip(z, axis), reference) < error(z.flip(axis), reference) / 4
        assert error(operators.flip(operators.flip(z, axis), axis), z) < 0.15
    assert error(operators.transpose(z), normalized(codec, x.mT)) < 0.1
    share = torch.tensor([0.2, 0.6])
    mixed = share.view(-1, 1, 1, 1) * x + (1 - share.view(-1, 1, 1, 1)) * x.flip(0)
    assert torch.allclose(operators.mix(z, z.flip(0), share), normalized(codec, mixed), atol=1e-5)


def test_the_decoder_between_changes_nothing_and_helps():
    # Half of the channels of a codec: a double flip must go through what the encoder kept, and through nothing else.
    codec = create_codec("rgb_f8c48", channels=12)
    assert isinstance(codec, WaveletCodec)
    operators, x = LatentOperators(codec, normalize=False), photos(codec)
    with torch.no_grad():
        z = codec.analysis(x)[:, :12]
    assert torch.allclose(operators._through(z.double(), lambda signal: signal).float(), z, atol=1e-5)
    with torch.no_grad():
        flipped = codec.analysis(x.flip(-1))[:, :12]
    assert error(operators.flip(z), flipped) < 0.05


def test_unnormalized_latents_are_the_same_but_for_the_scale():
    codec = complete()
    plain, scaled = LatentOperators(codec, normalize=False), LatentOperators(codec)
    with torch.no_grad():
        z = codec.analysis(signals(80, 24))
    n = (z - scaled.mean) / scaled.scale
    dropped = torch.arange(16) % 3 == 0
    for apply in (
        lambda operators, z: operators.flip(z),
        lambda operators, z: operators.transpose(z),
        lambda operators, z: operators.drop_channels(z, dropped),
        lambda operators, z: operators.requantize(z, torch.tensor([0.5, 0.7])),
    ):
        assert torch.allclose(apply(plain, z), apply(scaled, n) * scaled.scale + scaled.mean, atol=2e-5)


def test_dropped_channels_say_nothing():
    codec = create_codec("rgb_f8c12")
    operators = LatentOperators(codec)
    z = codec.encode(photo((64, 48))).to_float()[None].repeat(2, 1, 1, 1)
    dropped = torch.zeros(2, 12, dtype=torch.bool)
    dropped[0, 3] = dropped[1, 7] = True
    out = operators.drop_channels(z, dropped)
    assert not out[0, 3].any() and not out[1, 7].any()
    assert torch.equal(out[~dropped], z[~dropped])
    # They are the latents of a signal, the one without these channels.
    y = (out * operators.scale + operators.mean).double()
    assert torch.allclose(operators._through(y, lambda signal: signal), y, atol=1e-5)


def test_requantized_latents_are_those_of_a_coarser_encoder():
    fine, x = create_codec("rgb_f8c48", step=0.25, rdo=0), photo((128, 128))
    coarse = create_codec("rgb_f8c48", step=0.6, rdo=0).encode(x)
    operators = LatentOperators(fine)
    assert isinstance(fine, WaveletCodec)
    symbols = (
        operators.requantize(normalized(fine, to_unit(x)[None]), 0.6)[0] * operators.scale + operators.mean
    ) / 0.6
    assert (symbols.round() == coarse.symbols).float().mean() > 0.9999
    again = operators.requantize(fine.encode(x).to_float()[None], torch.tensor([0.6]))[0]
    symbols = (again * operators.scale + operators.mean) / 0.6
    assert torch.allclose(symbols, symbols.round(), atol=1e-4)
    assert (symbols.round() == coarse.symbols).float().mean() > 0.9
    assert (symbols.round() - coarse.symbols).abs().max() <= 1


def test_augmented_latents_are_those_of_the_augmented_pictures():
    codec = complete()
    augment = LatentAugment(codec, flips=(-1, -2), transpose=True, crop=(12, 14), mixup=0.4)
    x = torch.rand(16, 1, 80, 80, generator=torch.Generator().manual_seed(3)) * 2 - 1
    z, drawn = augment(normalized(codec, x), torch.Generator().manual_seed(0))
    kinds = {tuple(row) for row in torch.stack([*drawn.flips.values(), drawn.transposed], 1).tolist()}
    assert len(kinds) >= 6 and len({tuple(row) for row in drawn.corner.tolist()}) > 8 and drawn.share.std() > 0.1
    moved = drawn.move(x, 4)
    share = drawn.share.view(-1, 1, 1, 1)
    reference = normalized(codec, share * moved + (1 - share) * moved[drawn.partner])
    assert z.shape == (16, 16, 12, 14)
    # The cut pictures mirror at the cut, where the cut latents know what was there.
    assert torch.allclose(z[..., 4:-4, 4:-4], reference[..., 4:-4, 4:-4], atol=5e-5)
    assert not torch.allclose(z, reference, atol=1e-2)


def test_a_label_mask_moves_with_its_latents():
    augment = LatentAugment(complete(), flips=(-1, -2), transpose=True, crop=(6, 6))
    marks = torch.zeros(8, 16, 8, 8)
    marks[:, :, 1, 2] = 1
    _, drawn = augment(marks, torch.Generator().manual_seed(5))
    labels = torch.zeros(8, 32, 32, dtype=torch.uint8)
    labels[:, 4:8, 8:12] = 7
    moved, cells = drawn.move(labels, 4), drawn.move(marks[:, 0], 1)
    assert moved.shape == (8, 24, 24) and moved.dtype == torch.uint8 and 0 < (moved == 7).sum() < 8 * 16
    assert torch.equal(moved[:, ::4, ::4] == 7, cells == 1)


def test_what_is_drawn_follows_the_generator_and_its_bounds():
    codec = complete()
    augment = LatentAugment(codec, jitter=(1.0, 4.0), dropout=0.25)
    z = normalized(codec, signals(32, 32)).repeat(100, 1, 1, 1)
    (first, drawn), (again, _) = (augment(z, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(z, torch.Generator().manual_seed(2))[0])
    octaves = np.log2(np.asarray(drawn.steps) / codec.step)
    assert 0 <= octaves.min() < 0.1 and 1.9 < octaves.max() <= 2 and abs(octaves.mean() - 1) < 0.15
    assert abs(drawn.dropped.float().mean() - 0.25) < 0.03
    nothing, drawn = LatentAugment(codec)(z)
    assert torch.equal(nothing, z) and drawn.steps is None and torch.equal(drawn.move(z, 1), z)


def test_gradients_pass():
    codec = complete()
    augment = LatentAugment(codec, flips=(-1,), transpose=True, crop=(9, 9), mixup=0.5, jitter=(1, 2), dropout=0.1)
    z = normalized(codec, signals(80, 80)).repeat(4, 1, 1, 1)
    with torch.inference_mode():  # which makes the weights
        augment(z, torch.Generator().manual_seed(0))
    z.requires_grad_()
    augment(z, torch.Generator().manual_seed(0))[0].square().sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()
    assert (z.grad.flatten(1).norm(dim=1) > 0).all()


def test_what_does_not_fit_is_refused_with_a_sentence():
    codec = complete()
    factorized = WaveletCodec(
        WaveletConfig(2, 1, 2, 4, (0.0,) * 4, (1.0,) * 4, step=1.0, encoder="factorized"), "factorized"
    )
    for other in (factorized, create_codec("jpeg:quality=50")):
        with pytest.raises(CodecError, match="through a linear encoder"):
            LatentOperators(other)
    operators, z = LatentOperators(codec), torch.zeros(2, 16, 4, 6)
    with pytest.raises(CodecError, match="counted from the end"):
        operators.flip(z, 2)
    with pytest.raises(CodecError, match="Expected latents"):
        operators.flip(z[:, :8])
    with pytest.raises(CodecError, match="exchanges two axes"):
        operators.transpose(z, -1, -1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"jitter": (0.5, 2.0)}, "factors of 1 or more"),
        ({"jitter": (2.0, math.nan)}, "factors of 1 or more"),
        ({"dropout": 1.0}, "Dropout"),
        ({"crop": (3,)}, "A crop keeps"),
    ]
    for options, sentence in wrong:
        with pytest.raises(DataError, match=sentence):
            LatentAugment(codec, **options)
    with pytest.raises(DataError, match="no transposition"):
        LatentAugment(complete(1), transpose=True)
    with pytest.raises(DataError, match="square grids"):
        LatentAugment(codec, transpose=True)(z)
    with pytest.raises(DataError, match="does not fit"):
        LatentAugment(codec, crop=(5, 5))(z)


def test_the_benchmark_measures_every_operation():
    pictures = [photo((64, 64), 3, seed) for seed in range(2)]
    table = augment_table(pictures, ["rgb_f8c48:step=0.1"], repeats=1).set_index("operation")
    assert list(table.index) == [operation.name for operation in OPERATIONS]
    assert table.loc["mixup", "error"] == pytest.approx(0, abs=1e-5)
    errors, times = (table[columns].to_numpy() for columns in (["error", "symbols_error"], ["ms", "decoded_ms"]))
    assert (errors[:, 1] > errors[:, 0] - 1e-6).all() and (times >= 0).all() and (times[:, 1] > 0).all()
    flip = table.loc["flip, horizontal"]
    assert 0 < flip["error"] < flip["decoded_error"] and 50 < flip["same"] < 100
    assert "| mixup | 0.00 |" in markdown(table.reset_index(), pictures, "command")
    with pytest.raises(CmlError, match="no pictures"):
        augment_table([], ["rgb_f8c12"])
    with pytest.raises(CmlError, match="no wavelet codec"):
        augment_table(pictures, ["jpeg"])
