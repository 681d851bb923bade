"""The codecs of CompressAI against the package itself: small models with random weights, as a training saves them."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from cml.codecs.compressai import MODELS, import_zoo
from cml.errors import BitstreamError, CmlError, CodecError

pytestmark = pytest.mark.interop


@pytest.fixture(scope="session")
def zoo() -> Any:
    try:
        return import_zoo()
    except CodecError as error:
        pytest.skip(str(error))


def small(zoo: Any, name: str) -> Any:
    """A model of few channels, its probability tables not made yet."""
    torch.manual_seed(0)
    return zoo.model_architectures[name](*((16,) if name.startswith("cheng") else (16, 24))).eval()


@pytest.fixture(scope="session")
def folder(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compressai")
    for name in MODELS:
        torch.save({"epoch": 3, "state_dict": small(zoo, name).state_dict()}, folder / f"{name}.pth.tar")
    return folder


@pytest.fixture(params=MODELS)
def codec(request: pytest.FixtureRequest, folder: Path) -> cml.Codec:
    return cml.create_codec(f"compressai:{request.param},quality=2,weights={folder / request.param}.pth.tar")


@pytest.mark.parametrize("name", MODELS)
def test_bytes_and_pictures_are_those_of_the_package(zoo: Any, folder: Path, name: str):
    codec = cml.create_codec(f"compressai:{name},weights={folder / name}.pth.tar")
    model = small(zoo, name)
    model.update()
    x = photo((64, 128))
    with torch.no_grad():
        out = model.compress(x[None].float() / 255)
        wanted = model.decompress(out["strings"], out["shape"])["x_hat"][0] * 2 - 1
    container = Container.unpack(codec.compress(x))
    strings = [string for (string,) in out["strings"]]
    assert container.payload.endswith(b"".join(strings))
    assert len(container.payload) == sum(map(len, strings)) + 4 * (len(strings) - 1)
    assert torch.allclose(codec.decompress(container.pack()), wanted, atol=1e-5)


def test_the_same_bytes_every_time(codec: cml.Codec):
    x = photo((70, 50))
    assert codec.compress(x) == codec.compress(x) == cml.create_codec(codec.spec.name).compress(x)


def test_damaged_bytes_are_refused(codec: cml.Codec):
    blob = codec.compress(photo((33, 20)))
    for position in range(0, len(blob), max(1, len(blob) // 40)):
        changed = bytearray(blob)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(changed))
        with pytest.raises(BitstreamError):
            codec.decompress(blob[:position])


def test_containers_that_nobody_wrote_crash_nothing(codec: cml.Codec):
    """The checksum is right; the strings are cut, or promise what is not there."""
    x = photo((64, 64))
    good = Container.unpack(codec.compress(x))
    for container in (
        replace(good, channels=0), replace(good, channels=3), replace(good, shape=(1, 64, 64)),
        replace(good, shape=(3, 64)), replace(good, backend=1), replace(good, codec_id="0" * 12),
        replace(good, payload=b"\xff" * 9, channels=2),
    ):  # fmt: skip
        with pytest.raises(BitstreamError):
            codec.decompress(container.pack())
    head = 4 * (good.channels - 1)
    for payload in (bytes(head), bytes(head) + b"\xff" * 50, bytes(head) + good.payload[head : head + 8]):
        with suppress(BitstreamError):
            assert codec.decompress(replace(good, payload=payload).pack()).shape == x.shape


def test_tables_are_part_of_the_fingerprint(zoo: Any, tmp_path: Path):
    name, model = MODELS[0], small(zoo, MODELS[0])
    model.update()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    model.entropy_bottleneck._quantized_cdf[0, 1] += 1
    torch.save(model.state_dict(), tmp_path / "b.pth")
    a, b = (cml.create_codec(f"compressai:{name},weights={tmp_path / file}") for file in ("a.pth", "b.pth"))
    with pytest.raises(BitstreamError, match="written by codec"):
        b.decompress(a.compress(photo((16, 16))))


def test_weights_that_are_missing_or_others_get_a_sentence(zoo: Any, folder: Path, tmp_path: Path, monkeypatch):
    name = f"compressai:{MODELS[0]}"
    with pytest.raises(CmlError, match="no checkpoint nowhere"):
        cml.create_codec(f"{name},weights=nowhere")
    path = tmp_path / "a.pth"
    for content, message in (
        ([1, 2], "no state dict"),
        ({"state_dict": {"a": 1}}, "no state dict"),
        ({"a": torch.zeros(1)}, "does not hold the weights"),
        (torch.load(folder / f"{MODELS[-1]}.pth.tar", weights_only=True), "does not hold the weights"),
    ):
        torch.save(content, path)
        with pytest.raises(CmlError, match=message) as caught:
            cml.create_codec(f"{name},weights={path}")
        assert "\n" not in str(caught.value)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CmlError, match="damaged"):
        cml.create_codec(f"{name},weights={path}")
    for quality in (0, 9, 1.5, "high"):
        with pytest.raises(CodecError, match="from 1 to 8"):
            cml.create_codec(name, quality=quality)
    with pytest.raises(CmlError, match=r"quality=1,metric=ms-ssim; give weights"):
        monkeypatch.delitem(zoo.model_urls[MODELS[0]], "ms-ssim")
        cml.create_codec(f"{name},quality=1,metric=ms-ssim")


def test_offline_the_sentence_says_which_file_to_bring(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **kwargs: Any):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    with pytest.raises(CmlError, match=r"bring https://\S+/mbt2018-4-\w+\.pth\.tar and name the file, weights=FILE"):
        cml.create_codec("compressai:mbt2018,quality=4")
