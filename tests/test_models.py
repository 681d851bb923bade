import math
from typing import Any

import pytest
import torch
import transformers
from cml.eval.complexity import model_cost
from torch import nn

import cml
from cml.codecs.base import CodecSpec
from cml.errors import CmlError
from cml.models.backbones import StemShape, build
from cml.models.features import Features
from cml.models.strides import unstride

TIMM = [
    "vit_tiny_patch16_224",
    "resnet18",
    "resnet26d",
    "convnext_atto",
    "efficientnet_lite0",
    "mobilenetv3_small_050",
    "test_vit",
]


# Families by a small model: of timm, and of transformers by config alone.
FAMILIES = [
    "cml:small", "timm:test_vit", "timm:test_convnext", "timm:test_resnet", "timm:test_efficientnet",
    "timm:test_maxvit", "timm:swin_tiny_patch4_window7_224",
]  # fmt: skip
_SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_STAGES: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "image_size": 64}
ENCODERS = {
    "vit": lambda: transformers.ViTConfig(**_SMALL, intermediate_size=16),
    "deit": lambda: transformers.DeiTConfig(**_SMALL, intermediate_size=16),
    "dinov2": lambda: transformers.Dinov2Config(**_SMALL),
    "beit": lambda: transformers.BeitConfig(**_SMALL, intermediate_size=16, use_relative_position_bias=True),
    "swin": lambda: transformers.SwinConfig(**_STAGES),
    "donut": lambda: transformers.DonutSwinConfig(**_STAGES),
    "segformer": lambda: transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1]
    ),
    "trocr": lambda: transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.DeiTConfig(**_SMALL, intermediate_size=16), transformers.TrOCRConfig()
    ),
}
SPECS = {f"f{cell}": CodecSpec(f"f{cell}", 2, (3,), count, cell) for cell, count in ((4, 6), (8, 12), (16, 48))}


@pytest.fixture(scope="module")
def backbone_name(tmp_path_factory):
    def name(family: str) -> str:
        if family not in ENCODERS:
            return family
        folder = tmp_path_factory.mktemp(family)
        ENCODERS[family]().save_pretrained(folder)
        return f"hf:{folder}"

    return name


@pytest.mark.parametrize("patch", SPECS)
@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_every_family_reads_latents_of_every_patch(family, patch, backbone_name):
    spec = SPECS[patch]
    x = torch.randn(2, spec.latent_channels or 0, 64 // (spec.patch or 1), 96 // (spec.patch or 1))
    for features in (False, True):
        model = cml.adapt(backbone_name(family), spec, None if features else 5, size=(64, 96), features=features)
        assert model.training
        y = model(x)
        if isinstance(model, Features):
            assert [z.shape[1] for z in y] == model.channels
            assert model.reductions[0] == 16 and y[0].shape[2:] == (4, 6)
            assert all(math.ceil(64 / r) == z.shape[2] for z, r in zip(y, model.reductions, strict=True))
            torch.stack([z.square().mean() for z in y]).sum().backward()
        else:
            assert y.shape == (2, 5)
            y.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_strides_that_would_empty_the_grid_are_dropped():
    convnext = cml.adapt("timm:test_convnext", SPECS["f16"], 5, size=64)
    assert convnext.unstrided == ("stages.3.downsample.1",)
    large = cml.adapt("timm:test_convnext", SPECS["f16"], 5, size=128)
    assert large.unstrided == ()
    maxvit = cml.adapt("timm:test_maxvit", SPECS["f8"], features=True, size=224)
    # 14 x 14 tokens and windows of 7: one halving.
    assert isinstance(maxvit, Features) and maxvit.reductions == [16, 32]


def test_only_the_axis_that_is_too_small_loses_its_stride():
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 5, 2, 2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), convolution, nn.MaxPool2d(2))
    weight = convolution.weight.detach().clone()
    assert unstride(model, "0", torch.zeros(1, 3, 1, 8)) == ("1", "2")
    assert convolution.stride == (1, 2) and torch.equal(convolution.weight, weight[:, :, :1])
    assert model(torch.zeros(1, 3, 1, 8)).shape == (1, 5, 1, 2)


def test_encoders_are_reached_by_folder_or_say_what_is_missing(tmp_path):
    with pytest.raises(CmlError, match=r"config\.json"):
        cml.adapt(f"hf:{tmp_path}", SPECS["f8"], 5)
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CmlError, match="is a bert; the encoders that read latents are vit"):
        cml.adapt(f"hf:{tmp_path}", SPECS["f8"], 5)


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
        ("cml:small", {"num_classes": None}, "How many classes"),
    ],
)
def test_wrong_pairs_get_a_sentence(backbone, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        cml.adapt(backbone, cml.create_codec("rgb_f8c12").spec, **({"num_classes": 2} | options))


def test_a_backbone_that_cannot_read_the_grid_says_so():
    with pytest.raises(CmlError, match="cannot read a 12-channel grid"):
        cml.adapt("timm:test_coatnet", cml.create_codec("rgb_f8c12").spec, 2, size=224, patch=16)
