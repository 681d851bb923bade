"""Checkpoints of other packages that cannot be read get one sentence, and never run what they hold."""

import json
import os
import pickle

import pytest
import torch

from cml.codecs.published import load_published
from cml.errors import CmlError, CodecError

SETTINGS = {"channels": 3, "J": 1, "Ne": 0, "Nd": 32, "latent_dim": 2, "latent_bits": 8, "lightweight_encode": True}


def linear_state() -> dict[str, torch.Tensor]:
    """What `walloc.LinearCodec2D(3, 1, 2, 8)` saves."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "wt.h0_col": (1, 1, 10, 1),
        "encoder.0.weight": (2, 12, 1, 1),
        "encoder.0.bias": (2,),
        "decoder.1.weight": (12, 2, 1, 1),
        "decoder.1.bias": (12,),
    }
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def save(path, state, settings=SETTINGS, key="model_state_dict", **more):
    torch.save({key: state, **more}, path)
    path.with_suffix(".json").write_text(json.dumps(settings))
    return f"walloc:{path}"


def test_a_linear_codec_is_read(tmp_path):
    codec = load_published(save(tmp_path / "a.pth", linear_state()), step=2)
    x = torch.rand(3, 7, 9) * 2 - 1
    latent = codec.encode(x)
    assert latent.symbols.shape == (2, 4, 5)
    assert latent.symbols.abs().max() <= 64
    assert codec.decompress(codec.compress(x)).shape == x.shape
    assert codec.spec.name == f"walloc:{tmp_path / 'a.pth'}:step=2.0"


@pytest.mark.parametrize("name", ["walloc", "livecodec"])
def test_a_file_that_is_none(tmp_path, name):
    path = tmp_path / "a.pth"
    with pytest.raises(CmlError, match="no checkpoint"):
        load_published(f"{name}:{path}")
    for content in (b"", b"PK\x03\x04", b"\x80\x02", bytes(range(256)), pickle.dumps({"a": 1}, 2)[:-3]):
        path.write_bytes(content)
        with pytest.raises(CmlError, match="damaged"):
            load_published(f"{name}:{path}")
    torch.save([1, 2], path)
    path.with_suffix(".json").write_text(json.dumps(SETTINGS))
    with pytest.raises(CmlError, match="not a dictionary"):
        load_published(f"{name}:{path}")
    torch.save({"weights": {}}, path)
    with pytest.raises(CmlError, match="another package"):
        load_published(f"{name}:{path}")
    save(path, {"encoder.0.weight": torch.zeros(2, 12, 1, 1)})
    torch.save({"model_state_dict": {}, "state_dict": {}}, path)
    with pytest.raises(CmlError):
        load_published(f"{name}:{path}")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["walloc", "livecodec"])
def test_no_code_of_a_file_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.pth", linear_state(), optimizer=Bomb())
    with pytest.raises(CmlError, match="more than tensors"):
        load_published(f"{name}:{tmp_path / 'a.pth'}")
    assert not (tmp_path / "exploded").exists()


def test_settings_that_do_not_fit(tmp_path):
    path = tmp_path / "a.pth"
    name = save(path, linear_state())
    for text, message in (
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "'channels'"),
        (json.dumps(SETTINGS | {"J": None}), "garble"),
        (json.dumps(SETTINGS | {"J": 2}), "size mismatch"),
        (json.dumps(SETTINGS | {"J": 20}), "levels"),
    ):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(CmlError, match=message):
            load_published(name)
    path.with_suffix(".json").unlink()
    with pytest.raises(CmlError, match="missing"):
        load_published(name)


def test_architectures_that_are_not_read(tmp_path):
    state = linear_state()
    state["encoder.0.conv_in.weight"] = state.pop("encoder.0.weight")
    with pytest.raises(CodecError, match="lightweight"):
        load_published(save(tmp_path / "full.pth", state))
    state = linear_state() | {"decoder.2.weight": torch.zeros(1)}
    with pytest.raises(CmlError, match="Unexpected key"):
        load_published(save(tmp_path / "other.pth", state))
    live = {"conv_down.conv1.weight": torch.zeros(12, 1, 1, 1), "quantize.compand.sigma": torch.ones(2)}
    for key in (
        "encoder_blocks.blocks.0.x",
        "decoder_blocks.0.conv1.conv1.weight",
        "encoder_blocks.0.conv1.conv1.weight",
    ):
        path = tmp_path / "live.pth"
        state = live | {key: torch.zeros(12, 1, 3, 3)}
        torch.save({"state_dict": state, "config": {"input_channels": 3}}, path)
        with pytest.raises(CodecError, match="only the published"):
            load_published(f"livecodec:{path}")
