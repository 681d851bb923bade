"""Vector quantization: the nearest code, codebooks of one's own, and the ones that come with cml."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import photo

import cml
from cml import hub
from cml.codecs.base import Codec
from cml.codecs.vq import VectorQuantizer, fit_codebook, load_codebook, patches_of, save_codebook
from cml.errors import BitstreamError, CodecError, DataError

FILES = sorted((hub.BUNDLED / "vq").glob("*.safetensors"))


def squared_error(codec: Codec, x: torch.Tensor) -> float:
    return float(((codec.decompress(codec.compress(x)) + 1) * 127.5 - x).square().mean())


@pytest.mark.parametrize(("patch", "codes"), [(2, 16), (4, 1024), (8, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_patch_becomes_the_nearest_code(patch, codes, channels):
    codec = VectorQuantizer(patch, codes)
    x = photo((24, 40), channels)
    book = load_codebook(hub.BUNDLED / "vq" / f"patch{patch}_codes{codes}.safetensors")[channels].flatten(1).float()
    patches = patches_of(x, patch).float()
    least = torch.stack([(book - p).square().mean(1).min() for p in patches]).mean()
    assert squared_error(codec, x) == pytest.approx(float(least), rel=1e-5)


def test_patches_hold_one_square_each():
    x = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(3, 4, 6)
    patches = patches_of(x, 2)
    assert patches.shape == (6, 12)
    assert torch.equal(patches[4].view(3, 2, 2), x[:, 2:4, 2:4])
    assert torch.equal(patches_of(x, 4)[1].view(3, 4, 4)[:, :, 2], x[:, :, 5])  # the last column goes on


def test_bundled_codebooks_are_small_complete_and_of_many_rates():
    assert sum(file.stat().st_size for file in FILES) < 300_000
    x = photo((96, 96))
    sizes = {}
    for file in FILES:
        books = load_codebook(file)
        assert set(books) == {1, 3}
        patch, codes = books[3].shape[3], len(books[3])
        assert file.name == f"patch{patch}_codes{codes}.safetensors"
        sizes[patch, codes] = len(VectorQuantizer(patch, codes).compress(x))
        for book in books.values():
            means = book.float().flatten(1).mean(1)
            assert (means.diff() >= 0).all()
    for patch in (2, 4, 8):
        own = [size for (p, _), size in sorted(sizes.items()) if p == patch]
        assert own == sorted(own)
    assert 8 * max(sizes.values()) / 96**2 > 1.7 and 8 * min(sizes.values()) / 96**2 < 0.15


@pytest.mark.parametrize("channels", [1, 3])
def test_a_codebook_of_your_own(tmp_path, channels):
    pictures = [photo((64, 64), channels, seed) for seed in range(4)]
    book = fit_codebook(pictures, patch=4, codes=32, seed=1)
    assert book.shape == (32, channels, 4, 4) and book.dtype == torch.uint8
    assert torch.equal(book, fit_codebook(pictures, patch=4, codes=32, seed=1))
    file = tmp_path / "mine.safetensors"
    save_codebook(file, book)
    codec = cml.create_codec(f"vq:codebook={file}")
    assert codec.spec.channels == (channels,)
    assert cml.create_codec(codec.spec.name).spec == codec.spec
    x = photo((64, 64), channels, seed=9)
    blob = codec.compress(x)
    assert torch.equal(cml.decompress(blob), codec.decompress(blob))  # it was made in this process
    other = cml.create_codec("vq:patch=4,codes=64")
    assert squared_error(codec, x) < squared_error(other, x)
    assert other.spec.codec_id != codec.spec.codec_id
    with pytest.raises(BitstreamError, match="written by codec"):
        other.decompress(blob)


def test_more_codes_than_a_byte_holds(tmp_path):
    book = torch.arange(300, dtype=torch.int32).view(-1, 1, 1, 1).div(300 / 256).to(torch.uint8)
    save_codebook(tmp_path / "ramp", book)
    codec = VectorQuantizer(codebook=str(tmp_path / "ramp"))
    x = torch.arange(256, dtype=torch.uint8).view(1, 8, 32)
    assert squared_error(codec, x) < 1e-9


def test_codes_past_the_book_are_refused(tmp_path):
    for codes in (200, 250):
        save_codebook(tmp_path / str(codes), torch.arange(codes, dtype=torch.uint8).view(-1, 1, 1, 1))
    long, short = (VectorQuantizer(codebook=str(tmp_path / str(codes))) for codes in (250, 200))
    from dataclasses import replace

    from cml.codecs.bitstream import Container

    container = Container.unpack(long.compress(np.full((1, 4, 4), 240, np.uint8)))
    with pytest.raises(BitstreamError, match="indices"):
        short.decompress(replace(container, codec_id=short.spec.codec_id).pack())
    with pytest.raises(BitstreamError, match="indices"):
        long.decompress(replace(container, shape=(1, 4, 5)).pack())


def test_bad_codebooks_get_a_sentence(tmp_path: Path):
    from safetensors.torch import save_file

    with pytest.raises(DataError, match="Cannot read"):
        cml.create_codec(f"vq:codebook={tmp_path / 'none'}")
    (tmp_path / "text").write_text("codes")
    wrong = {
        "float": {"3": torch.zeros(4, 3, 2, 2)},
        "names": {"rgb": torch.zeros(4, 3, 2, 2, dtype=torch.uint8)},
        "sizes": {f"{c}": torch.zeros(4, c, 1 + c, 1 + c, dtype=torch.uint8) for c in (1, 3)},
        "empty": {},
    }
    for name, tensors in wrong.items():
        save_file(tensors, tmp_path / name)
    for name in ("text", *wrong):
        with pytest.raises(DataError, match="no codebook of vq"):
            cml.create_codec(f"vq:codebook={tmp_path / name}")
    with pytest.raises(CodecError, match="says its patch"):
        cml.create_codec(f"vq:patch=4,codebook={tmp_path / 'float'}")
    with pytest.raises(DataError, match="as many patches"):
        fit_codebook([photo((8, 8))], patch=4, codes=16)
    with pytest.raises(CodecError, match="from 2 to 65536"):
        fit_codebook([photo((8, 8))], patch=4, codes=1)
