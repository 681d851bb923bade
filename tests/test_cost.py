"""The cost model: its formulas against what torch counts, by hand for the transform, and where it is shown."""

from dataclasses import replace

import pytest
import torch
from helpers import photo
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from cml import cli
from cml.codecs.architecture import WaveletConfig, make_decoder, make_encoder
from cml.codecs.cost import config_of, cost_summary, decode_costs, decoder_macs, encode_costs, encoder_macs, fused_bytes
from cml.codecs.factory import create_codec
from cml.codecs.neural import WaveletCodec

GRIDS = {1: (24,), 2: (6, 4), 3: (2, 3, 4)}
POSITIONS = 24


def config(ndim=2, levels=3, channels=3, latents=12, **fields) -> WaveletConfig:
    return WaveletConfig(
        ndim=ndim, channels=channels, levels=levels, latent_channels=latents, latent_mean=(0.0,) * latents,
        latent_std=(1.0,) * latents, step=1.0, **fields,
    )  # fmt: skip


def counted(network: torch.nn.Module, *inputs: torch.Tensor) -> float:
    """MACs a position of the grid, by torch; the plain attention kernel does not hide its products."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() / 2 / POSITIONS


@pytest.mark.parametrize(
    "made",
    [
        config(),
        config(decoder="light", decoder_width=24, decoder_depth=3),
        config(ndim=1, levels=4, channels=2, decoder="light", decoder_width=16, decoder_depth=2),
        config(ndim=3, levels=1, channels=1, latents=5, decoder="light", decoder_width=8, decoder_depth=1),
        config(decoder="attention", decoder_depth=2),
        config(ndim=3, levels=2, channels=1, decoder="attention", decoder_depth=1),
        config(decoder="residual", decoder_width=64),
        config(ndim=1, levels=5, channels=1, decoder="residual", decoder_width=32),
    ],
    ids=lambda made: f"{made.ndim}-{made.decoder}",
)
def test_decoders_cost_what_torch_counts(made):
    z = torch.zeros(1, made.latent_channels, *GRIDS[made.ndim])
    signal = POSITIONS * 2 ** (made.ndim * made.axis_levels[0])
    # The gains of a step, which the light decoder computes once a signal.
    once = 3 * made.decoder_width * made.decoder_depth if made.decoder == "light" else 0
    assert decoder_macs(made, signal) == counted(make_decoder(made), z, torch.ones(1)) - once / POSITIONS


def test_the_decoder_for_sound():
    """What pads its ends is counted by torch and left out here; its transforms are ours alone."""
    made = config(ndim=1, levels=4, channels=2, decoder="oobleck", decoder_width=32)
    long = torch.zeros(1, 12, 40 * POSITIONS)
    transforms = 2 * made.packet_channels * 2 * made.axis_levels[0]
    assert decoder_macs(made) - transforms == pytest.approx(counted(make_decoder(made), long, torch.ones(1)) / 40, 0.01)


@pytest.mark.parametrize(("ndim", "levels", "channels"), [(2, 3, 3), (1, 6, 2), (3, 2, 1)])
def test_encoders_cost_what_torch_counts(ndim, levels, channels):
    made = config(ndim, levels, channels)
    packets = torch.zeros(1, made.packet_channels, *GRIDS[ndim])
    assert encoder_macs(made) == counted(make_encoder(made), packets)
    deep = replace(made, encoder="factorized", encoder_depth=2)
    network = make_encoder(deep)
    once = sum(
        p.numel() for name, p in network.named_parameters() if "squeeze_excite" in name and name.endswith("weight")
    )
    assert encoder_macs(deep) == pytest.approx(counted(network, packets) - once / POSITIONS)


def test_the_transform_by_hand():
    """f8 of RGB: 3 channels, 3 levels, 2 axes; 4 steps of 2 additions and 1 multiplication for every 2 samples."""
    transform = encode_costs(config())[0]
    assert transform.name == "transform"
    assert 2 * transform.macs + transform.additions == 3 * 3 * 2 * 4 * 3 / 2
    assert transform.parameters == 0
    # Where no matrix takes the gains in, they are one more multiplication a sample.
    factorized = encode_costs(config(encoder="factorized"))[0]
    assert factorized.macs - transform.macs == 3
    assert encode_costs(config(levels=0, latents=3))[0].macs == 0


def test_a_bundled_codec():
    codec = create_codec("rgb_f8c12")
    made = config_of(codec)
    assert isinstance(codec, WaveletCodec)
    assert made is not None and made == codec.config
    stages = encode_costs(made) + decode_costs(made)
    assert [stage.name for stage in stages] == [
        "transform", "encoder", "quantizer", "entropy coder",
        "entropy decoder", "dequantizer", "decoder", "inverse transform",
    ]  # fmt: skip
    summary = cost_summary(made)
    assert summary["encode_parameters"] == sum(p.numel() for p in codec.encoder.parameters())
    assert summary["decode_parameters"] == sum(p.numel() for p in codec.decoder.parameters())
    assert summary["encode_macs"] == 36 + 36 + 12 / 64 * 3
    assert summary["encode_macs"] < summary["decode_macs"] < 12_000
    # A pass over a picture reads its bytes and writes its symbols.
    x = photo((64, 64))
    assert fused_bytes(made) == (x.numel() + codec.encode(x).symbols.numel()) / x[0].numel()
    assert fused_bytes(made) < sum(stage.bytes for stage in encode_costs(made))
    plain = config_of(create_codec("rgb_f8c12:rdo=0"))
    assert plain is not None and encode_costs(plain)[2].additions < encode_costs(made)[2].additions
    assert config_of(create_codec("jpeg")) is None


def test_info_shows_the_cost():
    result = CliRunner().invoke(cli.app, ["info", "rgb_f8c12"])
    lines = {line.split("  ")[0].strip(): line.split() for line in result.output.splitlines() if line.strip()}
    assert result.exit_code == 0
    assert lines["encoder"][1:5] == ["36", "0", "2,316", "12.8"]
    assert lines["inverse transform"][2:4] == ["39", "36"]
    assert "MACs" not in CliRunner().invoke(cli.app, ["info", "jpeg"]).output
