import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cml.codecs.entropy import BACKENDS, backend
from cml.errors import BitstreamError, CodecError

SHAPES = [(1, 1, 1), (48, 1, 1), (3, 5), (16, 9, 11), (2, 3, 4, 5)]


def corpus(shape, dtype):
    """Symbols of every kind: empty, full range, extremes, sparse, ramps."""
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    yield np.zeros(shape, dtype)
    yield rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    yield np.full(shape, limits.min, dtype)
    yield np.full(shape, limits.max, dtype)
    yield np.where(rng.integers(0, 2, shape), limits.max, limits.min).astype(dtype)
    yield np.round(rng.laplace(0, 0.5, shape)).astype(dtype)
    yield (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_round_trip(name, dtype):
    coder = backend(name)
    for shape in SHAPES:
        for symbols in corpus(shape, dtype):
            decoded = coder.decode(coder.encode(symbols), shape, np.dtype(dtype))
            assert decoded.dtype == symbols.dtype
            assert np.array_equal(decoded, symbols)


@given(hnp.arrays(np.int8, st.tuples(*[st.integers(1, 6)] * 3)))
@settings(max_examples=60, deadline=None)
def test_any_symbols_round_trip(symbols):
    for coder in BACKENDS.values():
        assert np.array_equal(coder.decode(coder.encode(symbols), symbols.shape, symbols.dtype), symbols)


def entropy_bytes(symbols):
    total = 0.0
    for plane in symbols.reshape(len(symbols), -1):
        counts = np.unique(plane, return_counts=True)[1]
        total -= (counts * np.log2(counts / counts.sum())).sum()
    return total / 8


def test_rans_is_close_to_the_order_0_entropy():
    rng = np.random.default_rng(1)
    scales = np.geomspace(8, 0.05, 24)[:, None, None]
    symbols = np.round(rng.laplace(0, scales, (24, 64, 64))).astype(np.int8)
    assert len(backend("rans").encode(symbols)) < 1.02 * entropy_bytes(symbols)


def test_rans_uses_the_left_neighbour_where_that_pays():
    smooth = np.cumsum(np.random.default_rng(2).integers(-1, 2, (1, 64, 64)), axis=2).clip(-128, 127).astype(np.int8)
    assert len(backend("rans").encode(smooth)) < 0.6 * entropy_bytes(smooth)


def test_garbage_does_not_crash():
    """Behind the container's checksum, but still: any payload either decodes or raises BitstreamError."""
    rng = np.random.default_rng(3)
    good = backend("rans").encode(np.round(rng.laplace(0, 2, (8, 9, 9))).astype(np.int8))
    for coder in BACKENDS.values():
        for _ in range(300):
            junk = bytearray(good)
            for position in rng.integers(0, len(junk), 4):
                junk[position] = rng.integers(0, 256)
            payload = bytes(junk[: rng.integers(0, len(junk) + 1)])
            with contextlib.suppress(BitstreamError):
                assert coder.decode(payload, (8, 9, 9), np.dtype(np.int8)).shape == (8, 9, 9)


def test_unknown_backend():
    with pytest.raises(CodecError, match="zstd"):
        backend("huffman")
