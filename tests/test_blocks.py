"""Several containers one after another are one signal: streamed, read at random, and known to be whole."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak_megabytes

import cml
from cml.codecs.bitstream import Container
from cml.codecs.blocks import blocks, decompress_blocks, first_header, is_sequence, read_block, scan, write_blocks
from cml.codecs.fit import fit_codec
from cml.codecs.neural import WaveletCodec
from cml.errors import BitstreamError

FACTS = {"kind": "volume", "spacing": [2.5, 0.703125, 1 / 3], "note": "x" * 300}


def waves(shape: tuple[int, ...]) -> torch.Tensor:
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    samples = 128 + 100 * np.sin(sum(axis / (5 + 2 * number) for number, axis in enumerate(axes)))
    return torch.from_numpy(samples.astype(np.uint8))


@pytest.fixture(scope="module")
def codec() -> WaveletCodec:
    x = [waves((1, 24, 24, 24)), waves((1, 32, 20, 28))]
    return fit_codec(x, name="v", ndim=3, channels=1, levels=2, latent_channels=12, step=0.1, level="peak")


@pytest.fixture(scope="module")
def file(codec: WaveletCodec) -> bytes:
    return b"".join(write_blocks(codec, waves((1, 40, 12, 16)).split(16, 1), FACTS))


def test_a_signal_in_blocks(codec, file):
    x = waves((1, 40, 12, 16))
    parts = list(blocks(file))
    assert b"".join(parts) == file and is_sequence(file)
    told = [Container.unpack(part).facts for part in parts]
    assert told == [FACTS | {"block": 0}, {"block": 1}, {"block": 2, "blocks": 3}]
    for part, samples in zip(parts, x.split(16, 1), strict=True):
        assert torch.equal(codec.decompress(part), codec.decompress(codec.compress(samples)))
    whole = decompress_blocks(codec, file)
    assert whole.shape == x.shape and (whole - (x.float() / 127.5 - 1)).abs().max() < 0.2


def test_cml_decompress_gives_the_whole(codec, tmp_path):
    codec.save(tmp_path / "v", "# v")
    known, x = cml.create_codec(str(tmp_path / "v")), waves((1, 40, 12, 16))
    file = b"".join(write_blocks(known, x.split(16, 1), FACTS))
    assert torch.equal(cml.decompress(file), decompress_blocks(known, file))
    with pytest.raises(BitstreamError):
        cml.decompress(file[:-9])


def test_one_block_is_a_plain_container(codec):
    x = waves((1, 9, 8, 8))
    (blob,) = write_blocks(codec, [x], {})
    assert blob == codec.compress(x) and not is_sequence(blob)
    assert list(blocks(blob)) == [blob] and len(scan(io.BytesIO(blob))) == 1
    assert not list(write_blocks(codec, [], FACTS))


def test_a_block_is_found_and_decoded_alone(codec, file, tmp_path):
    path = tmp_path / "x.cml"
    path.write_bytes(file)
    with path.open("rb") as opened:
        found = scan(opened)
        assert [(block.start, block.stop) for block in found] == [(0, 16), (16, 32), (32, 40)]
        assert [block.shape for block in found] == [(1, 16, 12, 16), (1, 16, 12, 16), (1, 8, 12, 16)]
        assert sum(block.size for block in found) == len(file)
        part = codec.decompress(read_block(opened, found[1]))
        opened.seek(0)
        assert first_header(opened) == ((1, 16, 12, 16), FACTS | {"block": 0})
    assert torch.equal(part, decompress_blocks(codec, file)[:, 16:32])
    # Whatever happened to the payloads of others.
    hurt = bytearray(file)
    hurt[found[0].size - 10] ^= 255
    again = scan(io.BytesIO(bytes(hurt)))
    assert torch.equal(codec.decompress(read_block(io.BytesIO(bytes(hurt)), again[1])), part)
    with pytest.raises(BitstreamError, match="checksum"):
        list(blocks(bytes(hurt)))


def test_what_is_missing_is_told(codec, file):
    first, second, third = blocks(file)
    other = codec.compress(waves((1, 8, 12, 20)))
    for broken, sentence in (
        (b"", "no container"),
        (first, "cut off after 1 blocks"),
        (first + second, "cut off after 2 blocks"),
        (first + third, "Block number 1 is missing"),
        (second + third, "Block number 0 is missing"),
        (first + second + third + third, "Block number 3 is missing"),
        (file[:-1], "cut off"),
        (file[: len(first) + 5], "cut off"),
        (file + b"!", "cut off"),
        (file + b"!" * 40, "no container"),
        (first + other + third, "(another shape|Block number 1 is missing)"),
    ):
        for reader in (lambda blob: list(blocks(blob)), lambda blob: scan(io.BytesIO(blob))):
            with pytest.raises(BitstreamError, match=sentence):
                reader(broken)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_found_or_does_no_harm(codec, file, data):
    hurt = bytearray(file)
    for _ in range(data.draw(st.integers(1, 3))):
        hurt[data.draw(st.integers(0, len(hurt) - 1))] ^= data.draw(st.integers(1, 255))
    hurt = hurt[: data.draw(st.integers(1, len(hurt)))]
    if bytes(hurt) == file:
        return
    with pytest.raises(BitstreamError):
        list(blocks(bytes(hurt)))
    with contextlib.suppress(BitstreamError):
        scan(io.BytesIO(bytes(hurt)))
    is_sequence(bytes(hurt))


def test_a_stream_is_written_in_flat_memory(codec, tmp_path):
    codec.save(tmp_path / "v", "# v")
    path = tmp_path / "x.cml"
    code = f"""
import torch
from cml.codecs.blocks import write_blocks
from cml.codecs.factory import create_codec
torch.set_num_threads(1)  # each has memory of its own
codec = create_codec({str(tmp_path / "v")!r})
part = torch.randint(0, 255, (1, 32, 96, 96), dtype=torch.uint8)
codec.compress(part)
with measured(), open({str(path)!r}, "wb") as file:
    for blob in write_blocks(codec, (part.clone() for _ in range(300)), dict(kind="volume")):
        file.write(blob)
"""
    assert peak_megabytes(code) < 25  # of 88 MB of samples, 354 as float
    with path.open("rb") as file:
        assert sum(Container.unpack(blob).shape[1] for blob in blocks(file)) == 300 * 32
