import pytest
import torch
from cml.eval.complexity import model_cost

import cml
from cml.codecs.base import CodecSpec
from cml.errors import CmlError
from cml.models.backbones import StemShape, build

TIMM = [
    "vit_tiny_patch16_224",
    "resnet18",
    "resnet26d",
    "convnext_atto",
    "efficientnet_lite0",
    "mobilenetv3_small_050",
    "test_vit",
]


@pytest.mark.parametrize("backbone", ["cml:small", *[f"timm:{name}" for name in TIMM]])
@pytest.mark.parametrize("codec", ["rgb_f8c12", "rgb_f16c48", "jpeg"])
def test_adapted_models_read_latents_and_pixels(backbone, codec):
    spec = cml.create_codec(codec).spec
    model = cml.adapt(backbone, spec, num_classes=5, size=256, patch=16)
    channels: int = spec.latent_channels or 3
    cell: int = spec.patch or 1
    x = torch.randn(2, channels, 256 // cell, 256 // cell, requires_grad=True)
    y = model(x)
    assert y.shape == (2, 5)
    y.square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_equal_patch_means_equal_tokens_and_equal_backbone_cost():
    costs = []
    for spec in (CodecSpec("pixels", 2, (3,)), CodecSpec("a", 2, (3,), 12, 8), CodecSpec("b", 2, (3,), 48, 16)):
        channels: int = spec.latent_channels or 3
        cell: int = spec.patch or 1
        stem = StemShape(channels, (256 // cell, 256 // cell), 16 // cell)
        model, path = build("timm:vit_tiny_patch16_224", stem, 10)
        costs.append(model_cost(model, path, stem))
    assert {cost.tokens for cost in costs} == {256}
    assert len({cost.backbone_macs for cost in costs}) == 1
    assert [cost.stem_macs for cost in costs] == [256 * 192 * n for n in (3 * 16 * 16, 12 * 2 * 2, 48)]


def test_macs_are_those_on_paper():
    stem = StemShape(3, (32, 32), 4)
    model, path = build("cml:small", stem, 2)
    cost = model_cost(model, path, stem)
    first = 64 * (2 * 48 * 96 + 9 * 96)
    second = 16 * (4 * 48 * 96 + 2 * (2 * 96 * 192 + 9 * 192))
    assert cost.stem_macs == 64 * 48 * 48
    assert cost.backbone_macs == first + second + 96 * 2
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_attention_is_counted():
    stem = StemShape(3, (32, 32), 8)
    model, path = build("timm:test_vit", stem, 2)
    layers = model.get_submodule("blocks")
    dim = model.get_parameter("cls_token").shape[-1]
    cost = model_cost(model, path, stem)
    linear = sum(m.weight.numel() for m in layers.modules() if isinstance(m, torch.nn.Linear)) * 17
    attention = 2 * 17 * 17 * dim * len(list(layers.children()))
    assert cost.backbone_macs == linear + attention + 2 * dim


@pytest.mark.parametrize(
    ("backbone", "options", "sentence"),
    [
        ("small", {}, "family:name"),
        ("cml:large", {}, "cml:small"),
        ("timm:resnet1", {}, "did you mean"),
        ("tim:resnet18", {}, "did you mean timm"),
        ("cml:small", {"patch": 12}, "take a patch of 16"),
        ("cml:small", {"patch": 4}, "take a patch of 8"),
        ("cml:small", {"size": 8, "patch": 16}, "smaller"),
    ],
)
def test_wrong_pairs_get_a_sentence(backbone, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        cml.adapt(backbone, cml.create_codec("rgb_f8c12").spec, 2, **options)


def test_a_backbone_that_cannot_read_the_grid_says_so():
    with pytest.raises(CmlError, match="cannot read a 12-channel grid"):
        cml.adapt("timm:vgg11", cml.create_codec("rgb_f8c12").spec, 2, size=64, patch=16)
