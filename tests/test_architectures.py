"""The networks of both papers: their printed sizes, every dimension, and their quantizers."""

import pytest
import torch
from torch import Tensor, nn

from cml.codecs.attention import AttentionDecoder
from cml.codecs.factorized import FactorizedConv, FactorizedEncoder, compand_packets, expand_packets
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.oobleck import OobleckDecoder
from cml.codecs.quantize import GaussianCdf, LaplaceCdf, make_quantizer
from cml.codecs.residual import ResidualDecoder
from cml.errors import CodecError

GRIDS = [(1,), (5,), (1, 1), (3, 2), (1, 1, 1), (2, 3, 1)]


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_encoders_of_walloc():
    assert size(LinearEncoder(192, 12)) == 2_316
    assert size(LinearEncoder(192, 48)) == 9_264
    assert size(LinearEncoder(768, 48), LinearDecoder(48, 768)) == 74_544


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "weights"),
    [(768, 768, (24, 32), 43_008), (768, 48, (96, 8), 10_752), (768, 12, (192, 4), 5_376), (192, 48, (24, 8), 2_688)],
)
def test_factorized_convolution(inputs, outputs, groups, weights):
    convolution = FactorizedConv(2, inputs, outputs)
    assert convolution.groups == groups
    assert size(convolution) == weights


@pytest.mark.parametrize(("inputs", "outputs"), [(48, 7), (7, 48), (36, 24), (1, 5)])
def test_every_output_of_a_factorized_convolution_sees_every_input(inputs, outputs):
    """Also where the cheapest groups would not divide the outputs."""
    convolution = FactorizedConv(1, inputs, outputs)
    jacobian = convolution(torch.eye(inputs)[..., None])
    assert jacobian.shape == (inputs, outputs, 1)
    assert (jacobian != 0).all()


def test_networks_of_liveaction():
    encoder, decoder = FactorizedEncoder(2, 768, 48, 4), AttentionDecoder(2, 48, 768, 12)
    assert size(encoder.blocks) == 493_056
    assert size(encoder, decoder, LaplaceCdf(48)) == 114_619_056
    assert size(FactorizedEncoder(2, 192, 48), AttentionDecoder(2, 48, 192, 8), LaplaceCdf(48)) == 4_931_184


def test_network_of_walloc():
    with torch.device("meta"):
        assert round(size(LinearEncoder(192, 12), ResidualDecoder(2, 12, 192, 768)) / 1e6, 1) == 56.9


def decoders(ndim: int) -> list[nn.Module]:
    found = [AttentionDecoder(ndim, 4, 32, 2), ResidualDecoder(ndim, 4, 32, 32)]
    return [*found, OobleckDecoder(1, 4, 32, 8, 4, "periodic")] if ndim == 1 else found


@pytest.mark.parametrize("grid", GRIDS)
def test_shapes_and_gradients(grid):
    ndim, generator = len(grid), torch.Generator().manual_seed(0)
    packets = torch.randn(2, 32, *grid, generator=generator)
    encoder = FactorizedEncoder(ndim, 32, 4, 2)
    y = encoder(packets)
    assert y.shape == (2, 4, *grid)
    check_gradients(encoder, y)
    z = torch.randn(2, 4, *grid, generator=generator)
    for decoder in decoders(ndim):
        back = decoder(z, torch.ones(2))
        assert back.shape == packets.shape
        check_gradients(decoder, back)


def check_gradients(module: nn.Module, output: Tensor) -> None:
    output.square().sum().backward()
    reached = [
        parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in module.parameters()
    ]
    assert all(reached)
    assert any(parameter.grad.abs().max() > 0 for parameter in module.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_signal_does_not_depend_on_its_batch(grid):
    z = torch.randn(3, 4, *grid, generator=torch.Generator().manual_seed(0))
    for decoder in decoders(len(grid)):
        alone = torch.cat([decoder(z[i : i + 1], torch.ones(1)) for i in range(3)])
        assert torch.allclose(decoder(z, torch.ones(3)), alone, atol=1e-4)


def test_oobleck_filters_nothing_at_first():
    """With zero weights elsewhere the output is zero; with the filter at its start, packets pass as they are."""
    decoder = OobleckDecoder(1, 2, 8, 4, 2, "symmetric")
    z = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0))
    edge = torch.zeros(1, 2, 1)
    inside = decoder.network(torch.cat((edge, z, edge), 2))
    assert torch.allclose(decoder(z, torch.ones(1)), inside, atol=1e-5)


def test_widths_that_do_not_fit_get_a_sentence():
    for make in (
        lambda: FactorizedEncoder(2, 12, 4),
        lambda: AttentionDecoder(2, 4, 16),
        lambda: AttentionDecoder(2, 4, 36),
        lambda: ResidualDecoder(2, 4, 16, 48),
        lambda: ResidualDecoder(2, 4, 16, 0),
        lambda: OobleckDecoder(2, 4, 16, 8, 2, "periodic"),
        lambda: make_quantizer("gausian", 4),
    ):
        with pytest.raises(CodecError, match=r"\w+ \w+.*"):
            make()


def test_power_law_and_back():
    x = torch.linspace(-30, 30, 301, dtype=torch.float64)
    assert (compand_packets(x).diff() > 0).all()
    assert torch.allclose(expand_packets(compand_packets(x)), x, atol=1e-9)


@pytest.mark.parametrize("name", ["uniform", "gaussian", "laplace"])
def test_companding_is_monotone_and_odd(name):
    y = torch.linspace(-250, 250, 1001, dtype=torch.float64).view(1, 1, -1)
    quantizer = make_quantizer(name, 1).double()
    v = quantizer.compand(y)
    assert (v.diff() > 0).all()
    assert torch.allclose(v, -v.flip(2), atol=1e-9)
    if name != "uniform":
        assert v.round().abs().max() == 127


@pytest.mark.parametrize(("bits", "scale", "limit"), [(8, 68.65, 127.499), (4, 3.78, 7.499)])
def test_gaussian_companding(bits, scale, limit):
    """Constants of WaLLoC, and the way back within the clip at 3.719 deviations."""
    quantizer = GaussianCdf(bits)
    assert quantizer.scale == pytest.approx(scale, abs=0.005)
    assert quantizer.limit == pytest.approx(limit)
    assert quantizer.compand(torch.tensor(1e6)).round() == 2 ** (bits - 1) - 1
    y = torch.linspace(-3.7, 3.7, 201, dtype=torch.float64) * scale
    assert torch.allclose(quantizer.expand(quantizer.compand(y)), y, atol=1e-6)
    normal = torch.distributions.Normal(0.0, 1.0)
    theirs = 2 * limit * (normal.cdf(y / quantizer.scale) - 0.5)
    assert torch.allclose(quantizer.compand(y), theirs, atol=1e-6)
    clipped = quantizer.expand(torch.tensor([limit, 10 * limit], dtype=torch.float64))
    assert torch.allclose(clipped, quantizer.scale * normal.icdf(torch.tensor(0.9999)).double(), rtol=1e-3)


def test_laplace_companding_has_a_width_for_each_channel():
    quantizer = LaplaceCdf(2)
    assert quantizer.sigma.tolist() == [42, 42]
    with torch.no_grad():
        quantizer.sigma[1] = 21
    y = torch.full((1, 2, 1, 1), 21.0)
    v = quantizer.compand(y).flatten().tolist()
    assert v == pytest.approx([127 * (1 - 2.718281828**-0.5), 127 * (1 - 1 / 2.718281828)], rel=1e-5)
    quantizer.compand(y).sum().backward()
    assert quantizer.sigma.grad is not None
    assert (quantizer.sigma.grad < 0).all()
