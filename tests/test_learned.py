"""The autoencoders of generative models, in tiny configurations with random weights: the contract, and more."""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import photo
from test_codecs import (  # noqa: F401  the contract, run on the codecs of this file
    test_bad_signals_get_a_sentence,
    test_bytes_of_another_kind_are_refused,
    test_float_and_8_bit_input_agree,
    test_latents_exist_or_are_refused,
    test_list_in_list_out,
    test_output_has_the_shape_of_the_input,
    test_the_operating_point_makes_the_codec_again,
)

import cml
from cml.codecs.bitstream import Container
from cml.codecs.generative import GenerativeCodec
from cml.errors import BitstreamError, CmlError, CodecError


def diffusers() -> Any:
    return importlib.import_module("diffusers")


def save_vae(folder: Path, **options: Any) -> None:
    """As a user saves it: AutoencoderKL with two resolutions."""
    torch.manual_seed(0)
    diffusers().AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **options,
    ).save_pretrained(folder)


def save_cosmos(folder: Path) -> None:
    torch.manual_seed(0)
    diffusers().AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(16, 16, 16, 32),
        decode_block_out_channels=(16, 16, 16, 32),
        num_layers=1,
        resolution=64,
        latents_mean=[0.1, 0.7, 0.2, 0.7, 0.3, 0.7, 0.4, 0.7],  # of two frames
        latents_std=[0.5, 9.0] * 4,
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, as Stable Diffusion's and FLUX's are laid out, and a Cosmos tokenizer."""
    root = tmp_path_factory.mktemp("learned")
    save_vae(root / "pipeline" / "vae", scaling_factor=0.5, shift_factor=0.25)
    save_cosmos(root / "cosmos")
    return root


@pytest.fixture(params=["vae:{}/pipeline", "vae:{}/pipeline,entropy=fp16", "cosmos:{}/cosmos,entropy=rans"])
def codec(request: pytest.FixtureRequest, folder: Path) -> GenerativeCodec:
    codec = cml.create_codec(request.param.format(folder))
    assert isinstance(codec, GenerativeCodec)
    return codec


def make(name: str) -> GenerativeCodec:
    codec = cml.create_codec(name)
    assert isinstance(codec, GenerativeCodec)
    return codec


def test_specs_say_what_the_config_says(folder: Path):
    spec = make(f"vae:{folder}/pipeline").spec
    assert (spec.channels, spec.latent_channels, spec.patch, spec.dimension_reduction) == ((3,), 4, 2, 3.0)
    assert spec.name == f"vae:{folder}/pipeline,step=0.5"  # a quarter of the deviation 1 / 0.5
    assert spec.settings["entropy"] == "ctx" and spec.settings["network"] == "AutoencoderKL"
    spec = make(f"cosmos:{folder}/cosmos").spec
    assert (spec.latent_channels, spec.patch, spec.settings["step"]) == (4, 8, 0.125)
    fp16 = make(f"vae:{folder}/pipeline,entropy=fp16").spec
    assert fp16.latent_channels is None and fp16.settings["step"] is None


def test_the_networks_are_fed_what_they_were_trained_on(folder: Path):
    """[-1, 1], the mean of the posterior, and a picture as a video of one frame: against diffusers alone."""
    x = photo((32, 40)).float() / 127.5 - 1
    vae = diffusers().AutoencoderKL.from_pretrained(folder / "pipeline" / "vae")
    cosmos = diffusers().AutoencoderKLCosmos.from_pretrained(folder / "cosmos")
    kinds: list[tuple[str, Any, Callable, Callable]] = [
        (f"vae:{folder}/pipeline", vae, lambda t: t, lambda t: t),
        (f"cosmos:{folder}/cosmos", cosmos, lambda t: t[:, :, None], lambda t: t[:, :, 0]),
    ]
    for name, network, wrap, unwrap in kinds:
        network.eval()
        with torch.no_grad():
            z = network.encode(wrap(x[None])).latent_dist.mode()
            wanted = unwrap(network.decode(z.half().float()).sample)[0].clamp(-1, 1)
        fp16 = make(f"{name},entropy=fp16")
        blob = fp16.compress(x)
        assert torch.equal(fp16.decompress(blob), wanted)
        assert len(Container.unpack(blob).payload) == 2 * z.numel()
        latent = make(f"{name},step=0.01").encode(x)
        assert (latent.to_float(normalize=False) - unwrap(z)[0]).abs().max() <= 0.00501


def test_latents_are_normalized_by_the_networks_own_scaling(folder: Path, tmp_path: Path):
    x = photo((16, 16))
    latent = make(f"vae:{folder}/pipeline").encode(x)
    z = latent.to_float(normalize=False)
    assert torch.allclose(latent.to_float(), (z - 0.25) * 0.5)
    latent = make(f"cosmos:{folder}/cosmos").encode(x)
    assert latent.mean.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert latent.std.tolist() == [0.5] * 4
    save_vae(tmp_path, latents_mean=[0.0, 1.0, 2.0, 3.0], latents_std=[1.0, 2.0, 1.0, 2.0], scaling_factor=0.5)
    latent = make(f"vae:{tmp_path}").encode(x)
    assert latent.mean.tolist() == [0, 1, 2, 3]
    assert latent.std.tolist() == [2, 4, 2, 4]


def test_bytes_of_any_back_end_decode_and_a_finer_step_costs_more(folder: Path):
    x = photo((48, 64))
    name = f"vae:{folder}/pipeline"
    reader, sizes = make(name), []
    for options in ("step=1", "step=0.01", "step=0.0001,entropy=zstd", "entropy=fp16"):
        writer = make(f"{name},{options}")
        blob = writer.compress(x)
        sizes.append(len(blob))
        assert torch.equal(reader.decompress(blob), writer.decompress(blob))
    assert sizes[0] < sizes[1] < sizes[2]
    wide = make(f"{name},step=0.0001")
    latent = wide.encode(x)
    assert latent.symbols.dtype == torch.int16
    assert torch.equal(wide.unpack(wide.pack(latent)).symbols, latent.symbols)
    with pytest.raises(CodecError, match="larger step"):
        make(f"{name},step=1e-8").encode(x)


def test_the_same_bytes_every_time(codec: GenerativeCodec):
    x = photo((30, 20))
    blob = codec.compress(x)
    assert codec.train().compress(x) == blob
    assert cml.create_codec(codec.spec.name).compress(x) == blob


def test_damaged_bytes_are_refused(codec: GenerativeCodec):
    blob = codec.compress(photo((17, 12)))
    for position in range(0, len(blob), 5):
        changed = bytearray(blob)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(changed))
        with pytest.raises(BitstreamError):
            codec.decompress(blob[:position])


def test_containers_that_nobody_wrote_are_refused(folder: Path):
    """The checksum is right; what it covers is not."""
    name = f"vae:{folder}/pipeline"
    codec, fp16 = make(name), make(f"{name},entropy=fp16")
    x = photo((8, 8))
    good, raw = Container.unpack(codec.compress(x)), Container.unpack(fp16.compress(x))
    nan = np.full(len(raw.payload) // 2, np.nan, "<f2").tobytes()
    bad = [
        replace(good, channels=5), replace(good, shape=(3, 8)), replace(good, shape=(1, 8, 8)),
        replace(good, parameter=0.0), replace(good, parameter=float("inf")), replace(good, parameter=1e38),
        replace(good, backend=7), replace(good, codec_id="0" * 12),
        replace(raw, payload=raw.payload[:-1]), replace(raw, payload=raw.payload + b"\0\0"), replace(raw, payload=nan),
    ]  # fmt: skip
    for container in bad:
        with pytest.raises(BitstreamError):
            codec.decompress(container.pack())
    with pytest.raises(BitstreamError, match="use decompress"):
        codec.unpack(raw.pack())


def test_latents_of_others_are_refused(folder: Path):
    codec, other = make(f"vae:{folder}/pipeline"), make(f"cosmos:{folder}/cosmos")
    latent = codec.encode(photo((8, 8)))
    with pytest.raises(CodecError, match="was made by codec"):
        other.decode(latent)
    for wrong in (latent.symbols.float(), latent.symbols[:2], latent.symbols[:, 1:]):
        with pytest.raises(CodecError, match="are not those"):
            codec.decode(replace(latent, symbols=wrong))
    with pytest.raises(CodecError, match="no latents"):
        make(f"vae:{folder}/pipeline,entropy=fp16").pack(latent)


def test_weights_are_part_of_the_fingerprint(folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_vae(tmp_path, scaling_factor=0.5, shift_factor=0.25)
    ours, theirs = make(f"vae:{tmp_path}"), make(f"vae:{folder}/pipeline")
    assert ours.spec.codec_id == theirs.spec.codec_id  # the folder is not part of it
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["post_quant_conv.bias"] += 1e-3
    save_file(state, weights)
    assert make(f"vae:{tmp_path}").spec.codec_id != theirs.spec.codec_id


def test_attention_layers_of_old_files_are_read(folder: Path, tmp_path: Path):
    """Stable Diffusion 1.x names them otherwise."""
    from safetensors.torch import load_file, save_file

    save_vae(tmp_path, scaling_factor=0.5, shift_factor=0.25)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for key, tensor in load_file(weights).items():
        old = key.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
        renamed[old.replace("to_out.0", "proj_attn")] = tensor
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in renamed
    save_file(renamed, weights)
    assert make(f"vae:{tmp_path}").spec.codec_id == make(f"vae:{folder}/pipeline").spec.codec_id


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vae:nowhere", "bring both, as diffusers saves them, and name their folder, vae:FOLDER"),
        ("vae", "empty path"),
        ("cosmos:nowhere", "cosmos:FOLDER"),
        ("vae:{}/cosmos", "AutoencoderKLCosmos, and vae: reads AutoencoderKL: use cosmos:"),
        ("cosmos:{}/pipeline", "use vae:"),
        ("vae:{}/pipeline,step=0", "positive number"),
        ("vae:{}/pipeline,step=fine", "positive number"),
        ("vae:{}/pipeline,entropy=lzma", "zstd.*fp16"),
        ("vae:{}/pipeline,entropy=fp16,step=1", "rounds nothing"),
        ("vae:{}/pipeline,quality=3", "it takes step, entropy"),
    ],
)
def test_bad_names_and_options_get_a_sentence(folder: Path, name: str, sentence: str):
    with pytest.raises(CmlError, match=sentence):
        cml.create_codec(name.format(folder))


def test_files_that_do_not_fit_get_a_sentence(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_vae(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"
    written, state = json.loads(config.read_text()), load_file(weights)
    for changed, message in (
        ({"latent_channels": 8}, "size mismatch"),
        ({"block_out_channels": [32]}, "does not hold the weights"),
        ({"block_out_channels": "wide"}, "does not hold the weights"),
        ({"_class_name": "UNet2DModel"}, "class UNet2DModel"),
    ):
        config.write_text(json.dumps(written | changed))
        with pytest.raises(CmlError, match=message) as caught:
            make(f"vae:{tmp_path}")
        assert "\n" not in str(caught.value)
    config.write_text(json.dumps(written))
    save_file({key: tensor for key, tensor in state.items() if key != "quant_conv.weight"}, weights)
    with pytest.raises(CmlError, match=r"quant_conv\.weight"):
        make(f"vae:{tmp_path}")
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CmlError, match="Cannot read"):
        make(f"vae:{tmp_path}")
    state["quant_conv.bias"][:] = float("nan")
    save_file(state, weights)
    with pytest.raises(CodecError, match="damaged"):
        make(f"vae:{tmp_path}").compress(photo((8, 8)))


def test_offline_the_sentence_says_which_files_to_bring(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CmlError, match=r"bring the config\.json and diffusion_pytorch_model\.safetensors"):
        cml.create_codec("vae:hf:somebody/something@main,step=0.3")


def test_without_diffusers_the_sentence_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CodecError, match="pip install diffusers"):
        cml.create_codec(f"vae:{folder}/pipeline")


def test_without_compressai_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(CodecError, match=r"pip install --no-deps compressai==1\.2\.8 pytorch-msssim torch-geometric"):
        cml.create_codec("compressai:mbt2018,quality=3")
    for name, sentence in (
        ("compressai:mbt2019", "use one of bmshj2018-factorized"),
        ("compressai", "use one of"),
        ("compressai:mbt2018,metric=lpips", "metric=mse and metric=ms-ssim"),
        ("compressai:mbt2018,step=1", "it takes quality, metric, weights"),
    ):
        with pytest.raises(CmlError, match=sentence):
            cml.create_codec(name)
