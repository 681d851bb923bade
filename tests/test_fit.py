import pytest
import torch
from helpers import photo

import cml
from cml import hub
from cml.codecs.fit import fit_codec
from cml.errors import CmlError, CodecError


@pytest.mark.parametrize(
    ("ndim", "channels", "levels", "size"), [(1, 2, 4, (4000,)), (2, 1, 2, (96, 80)), (3, 1, 1, (24, 20, 18))]
)
def test_the_closed_form_in_every_dimension(ndim, channels, levels, size, tmp_path):
    """With all channels and a fine step the fitted codec is a transform, near-perfect; fewer channels lose least."""
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(channels, *size, generator=generator)
    for dim in range(1, ndim + 1):
        walk = walk.cumsum(dim)
    x = walk / walk.abs().max()
    packets = channels * 2 ** (ndim * levels)
    errors = []
    for c in (packets, packets // 2, packets // 4):
        codec = fit_codec([x], name="t", ndim=ndim, channels=channels, levels=levels, latent_channels=c, step=1e-3)
        errors.append(float((codec.decompress(codec.compress(x)) - x).square().mean()))
        assert list(codec.config.latent_std) == sorted(codec.config.latent_std, reverse=True)
    assert errors[0] < 1e-6 and errors[0] < errors[1] < errors[2]

    codec.save(tmp_path / "mine", "card")
    loaded = cml.create_codec(str(tmp_path / "mine"))
    assert loaded.spec.codec_id == codec.spec.codec_id
    blob = loaded.compress(x)
    assert torch.equal(cml.decompress(blob), codec.decompress(blob))


def test_the_fit_is_the_same_twice():
    signals = [photo((64, 64), 3, seed) for seed in range(4)]
    a, b = (fit_codec(signals, name="t", ndim=2, channels=3, levels=2, latent_channels=8) for _ in range(2))
    assert a.codec_id == b.codec_id


def test_too_little_data_and_too_many_channels():
    with pytest.raises(CodecError, match="too few"):
        fit_codec([photo((16, 16))], name="t", ndim=2, channels=3, levels=3, latent_channels=8)
    with pytest.raises(CodecError, match="1 to 12"):
        fit_codec([photo((16, 16))], name="t", ndim=2, channels=3, levels=1, latent_channels=13)


def test_broken_folders_get_a_sentence(tmp_path):
    codec = fit_codec([photo((64, 64), 1)], name="t", ndim=2, channels=1, levels=1, latent_channels=2)
    codec.save(tmp_path / "c", "card")
    (tmp_path / "c" / hub.WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(CmlError, match=hub.WEIGHTS):
        cml.create_codec(str(tmp_path / "c"))
    (tmp_path / "c" / hub.CONFIG).write_text("{")
    with pytest.raises(CmlError, match=hub.CONFIG):
        cml.create_codec(str(tmp_path / "c"))
    codec.save(tmp_path / "d", "card")
    (tmp_path / "d" / hub.CONFIG).write_text('{"ndim": 2}')
    with pytest.raises(CmlError, match="does not hold a wavelet codec"):
        cml.create_codec(str(tmp_path / "d"))


def test_the_hub_is_refused_offline_with_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CmlError, match=r"config\.json and model\.safetensors"):
        cml.create_codec("hf:nobody/no-such-codec")


def test_the_hub_is_used_when_there(monkeypatch, tmp_path):
    """`hf:` through huggingface_hub's own call, answered from a local folder."""
    import huggingface_hub

    codec = fit_codec([photo((64, 64), 1)], name="t", ndim=2, channels=1, levels=1, latent_channels=2)
    codec.save(tmp_path / "snapshot", "card")
    asked = []

    def snapshot_download(repo_id, revision=None, allow_patterns=None):
        asked.append((repo_id, revision))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = cml.create_codec("hf:me/mine@v2:step=0.25")
    assert asked == [("me/mine", "v2")]
    assert found.spec.codec_id == codec.codec_id
    x = photo((10, 10), 1)
    assert torch.equal(cml.decompress(found.compress(x)), found.decompress(found.compress(x)))


def test_bundled_weights_are_small_and_name_their_recipe():
    total = 0
    for name in hub.bundled_names():
        folder = hub.BUNDLED / name
        total += sum(file.stat().st_size for file in folder.iterdir())
        config = hub.read_config(folder)
        assert config["provenance"]["command"] == "cml train codec recipe.yaml"
        assert (folder / "recipe.yaml").exists()
        assert cml.create_codec(name).spec.codec_id == config["codec_id"]
        assert (folder / "README.md").read_text().startswith(f"# {name}")
    assert 0 < total < 40e6
