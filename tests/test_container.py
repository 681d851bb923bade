"""The container and its golden bitstreams."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import photo

import cml
from cml.codecs import bitstream
from cml.codecs.bitstream import Container, attach
from cml.errors import BitstreamError, CodecError

GOLDEN = Path(__file__).parent / "golden"


def container(**changes):
    values: dict[str, Any] = dict(
        codec_id="0123456789ab",
        parameter=0.5,
        shape=(3, 512, 768),
        channels=48,
        bit_depth=8,
        backend=2,
        wide=False,
        payload=b"payload",
    )
    return Container(**(values | changes))


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 512, 768), (1, 64, 300, 300), (3, 50_000, 90_000), (16, 2**28)])
@pytest.mark.parametrize("bit_depth", [8, 16, 32])
def test_round_trip_and_cost(shape, bit_depth):
    original = container(shape=shape, bit_depth=bit_depth, wide=bit_depth == 16, payload=bytes(1000))
    blob = original.pack()
    assert Container.unpack(blob) == original
    assert len(blob) - 1000 <= 32


@pytest.mark.parametrize("level", [(), (0.25, 0.5, -0.5)])
@pytest.mark.parametrize("facts", [{}, {"rate": 44100}, {"affine": [[0.1, 1 / 3], [1e-300, -7.0]], "name": "ü" * 500}])
def test_level_and_facts_come_back_to_the_last_bit(level, facts):
    original = container(shape=(2, 1000), level=level, facts=facts)
    blob = original.pack()
    assert Container.unpack(blob) == original
    assert blob[3] == (3 if level or facts else 2)  # a container without them is the one of before
    more = attach(blob, {"more": True})
    assert Container.unpack(more) == container(shape=(2, 1000), level=level, facts={**facts, "more": True})
    assert bitstream.facts(more) == {**facts, "more": True} and bitstream.facts(b"a file of another kind") == {}
    for position in range(len(blob)):
        with pytest.raises(BitstreamError):
            Container.unpack(blob[:position] + bytes([blob[position] ^ 5]) + blob[position + 1 :])


def test_facts_are_what_json_holds():
    for bad in ({"x": float("nan")}, {"x": object()}, {"x": "y" * (1 << 25)}):
        with pytest.raises(CodecError, match="facts"):
            container(facts=bad).pack()
    with pytest.raises(BitstreamError, match="CML"):
        attach(b"RIFF", {"rate": 8000})


@pytest.mark.parametrize(
    ("extras", "words"),
    [(b"\x00", "does not know"), (b"\x09", "does not know"), (b"\x01" + bytes(3), "cut off"),
     (b"\x01" + b"\xff" * 8, "level"), (b"\x02\x03[1]", "no names"), (b"\x02\x02{,", "cannot be read"),
     (b"\x06\x03abc", "cannot be read")],
)  # fmt: skip
def test_headers_that_make_no_sense_are_refused(extras, words):
    head = bytearray(container(shape=(1, 9), payload=b"").pack()[:-5])  # without the length and the checksum
    head[3] = 3
    body = bytes(head) + extras + b"\x00"
    with pytest.raises(BitstreamError, match=words):
        Container.unpack(body + zlib.crc32(body).to_bytes(4, "little"))


def test_thousands_of_damages():
    """One byte changed, any cut, bytes swapped, appended: BitstreamError or the same symbols."""
    codec = cml.create_codec("rgb_f8c12")
    blob = codec.compress(photo((64, 80)))
    symbols = codec.unpack(blob).symbols
    rng = np.random.default_rng(0)
    damaged = [blob[:length] for length in range(len(blob))]
    for position in range(len(blob)):
        for value in rng.integers(1, 256, 9):
            changed = bytearray(blob)
            changed[position] ^= int(value)
            damaged.append(bytes(changed))
    for _ in range(2000):
        changed = bytearray(blob)
        for position in rng.integers(0, len(blob), rng.integers(2, 9)):
            changed[position] = int(rng.integers(0, 256))
        damaged.append(bytes(changed) + bytes(int(rng.integers(0, 3))))
    assert len(damaged) > 3000
    caught = 0
    for bad in damaged:
        try:
            assert torch.equal(codec.unpack(bad).symbols, symbols)
        except BitstreamError:
            caught += 1
    assert caught > 0.99 * len(damaged)


def test_headers_that_make_no_sense():
    import zlib

    def signed(body):
        return body + zlib.crc32(body).to_bytes(4, "little")

    head = b"CML\x01" + bytes(6)
    for body in (
        head + b"\x40" + bytes(4),  # two axes promised, no shape
        head + b"\x20" + bytes(4) + b"\x01\x00\x00",  # an empty axis
        head + b"\x20" + bytes(4) + b"\xff" * 12,  # a number without end
        head + b"\x20" + bytes(4) + b"\x01" + b"\xff\xff\xff\xff\xff\xff\x7f" + b"\x00",  # petabytes of samples
        head + b"\x00" + bytes(4) + b"\x01\x00",  # no axes
        head + b"\x38" + bytes(4) + b"\x01\x01\x00",  # an unknown bit depth
        head + b"\x20" + bytes(4) + b"\x01\x01\x05",  # less payload than promised
    ):
        with pytest.raises(BitstreamError):
            Container.unpack(signed(body))
    with pytest.raises(BitstreamError, match="version 9"):
        Container.unpack(b"CML\x09" + bytes(40))
    with pytest.raises(BitstreamError):
        cml.decompress(b"")
    with pytest.raises(BitstreamError):
        cml.decompress(b"hello, world, this is text")


def golden_symbols(ndim):
    rng = np.random.default_rng(7)
    grid = {1: (40,), 2: (6, 9), 3: (3, 4, 5)}[ndim]
    return np.round(rng.laplace(0, [[s] for s in (20.0, 3.0, 0.7, 0.01)], (4, int(np.prod(grid))))).reshape(4, *grid)


@pytest.mark.parametrize("name", ["zstd", "rans"])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_golden_bitstreams(name, dtype, ndim):
    """Bytes written once decode to the same symbols for ever. CML_WRITE_GOLDEN=1 makes those that are missing."""
    from cml.codecs.entropy import backend

    symbols = (golden_symbols(ndim) * (1 if dtype == "int8" else 100)).clip(-128, 32767).astype(dtype)
    path = GOLDEN / f"{name}_{dtype}_{ndim}d.bin"
    if os.environ.get("CML_WRITE_GOLDEN") and not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(backend(name).encode(symbols))
    assert np.array_equal(backend(name).decode(path.read_bytes(), symbols.shape, symbols.dtype), symbols)
    if name != "zstd":  # which may compress differently from release to release, and only has to decode
        assert backend(name).encode(symbols) == path.read_bytes()


BUNDLED = ("rgb_f8c12", "rgb_f8c48", "rgb_f16c12", "rgb_f16c48", "gray_f8c4", "gray_f8c16", "gray_f4c4")


@pytest.mark.parametrize("name", BUNDLED)
def test_golden_pictures(name):
    """A file written by a bundled codec once is decoded for ever: to the same symbols, and close to the original."""
    codec = cml.create_codec(name)
    x = photo((45, 61), codec.spec.channels[0])
    path = GOLDEN / f"{name}.cml"
    if os.environ.get("CML_WRITE_GOLDEN") and not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(codec.compress(x))
    blob = path.read_bytes()
    difference = codec.unpack(blob).symbols.int() - codec.encode(x).symbols.int()
    assert difference.abs().max() <= 1
    assert difference.count_nonzero() <= difference.numel() / 1000
    assert (cml.decompress(blob) - (x.float() / 127.5 - 1)).square().mean() < 0.02
