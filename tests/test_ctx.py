"""The `ctx` back-end: lossless whatever it is given, the same bytes compiled and not, and small."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import check_golden, golden_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from memory import peak_megabytes

from cml.codecs import ctx_kernel, range_coder
from cml.codecs.entropy import backend
from cml.errors import BitstreamError

GRIDS = {"1d": (40,), "2d": (6, 9), "3d": (3, 4, 5)}
coder = backend("ctx")


def decoded(payload, symbols):
    return coder.decode(payload, symbols.shape, symbols.dtype)


def assert_round_trip(symbols):
    payload = coder.encode(symbols)
    again = decoded(payload, symbols)
    assert again.dtype == symbols.dtype
    assert np.array_equal(again, symbols)
    return payload


shapes = st.integers(1, 3).flatmap(lambda n: st.tuples(st.integers(1, 5), *[st.integers(1, 19)] * n))


@st.composite
def symbol_arrays(draw):
    """Dense, sparse, constant, extreme and smooth, of either width."""
    dtype = draw(st.sampled_from([np.int8, np.int16]))
    shape = draw(shapes)
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["any", "laplace", "constant", "extremes", "ramp", "half"]))
    scale = draw(st.sampled_from([0.05, 0.5, 3.0, 40.0, 3000.0]))
    noise = np.round(rng.laplace(0, scale, shape))
    x = {
        "any": lambda: rng.integers(limits.min, limits.max, shape, endpoint=True),
        "laplace": lambda: noise,
        "constant": lambda: np.full(shape, draw(st.integers(limits.min, limits.max))),
        "extremes": lambda: rng.choice([limits.min, limits.max, 0], shape),
        "ramp": lambda: np.cumsum(noise, axis=-1),
        "half": lambda: np.where(np.arange(shape[-1]) > shape[-1] // 2, noise, 0),
    }[kind]()
    return np.clip(x, limits.min, limits.max).astype(dtype)


@given(symbol_arrays())
@settings(max_examples=400, deadline=None)
def test_round_trip(symbols):
    assert_round_trip(symbols)


@given(hnp.arrays(np.int16, st.tuples(*[st.integers(1, 5)] * 3)))
@settings(max_examples=200, deadline=None)
def test_any_wide_symbols_round_trip(symbols):
    assert_round_trip(symbols)


@pytest.mark.parametrize("shape", [(8192, 1, 1), (8192, 3), (1, 1, 3000), (1, 3000, 1), (2, 2, 3, 70), (3, 100_000)])
def test_unusual_shapes(shape):
    rng = np.random.default_rng(0)
    assert_round_trip(np.round(rng.laplace(0, 1, shape)).astype(np.int8))
    assert_round_trip(rng.integers(-32768, 32768, shape).astype(np.int16))


def test_symbols_need_not_be_contiguous():
    symbols = np.random.default_rng(0).integers(-3, 4, (5, 6, 7)).astype(np.int8)
    assert coder.encode(symbols.transpose(2, 0, 1)) == coder.encode(symbols.transpose(2, 0, 1).copy())


def test_noise_costs_little_more_than_itself():
    """Also the way into the second run, with more room."""
    rng = np.random.default_rng(4)
    for dtype in (np.int8, np.int16):
        limits = np.iinfo(dtype)
        noise = rng.integers(limits.min, limits.max, (4, 64, 64), endpoint=True).astype(dtype)
        assert noise.nbytes < len(assert_round_trip(noise)) < 1.03 * noise.nbytes


def test_small_symbols_cost_few_bytes():
    assert assert_round_trip(np.zeros((48, 64, 96), np.int8)) == b""
    one = np.zeros((48, 64, 96), np.int8)
    one[30, 20, 10] = 1
    assert len(assert_round_trip(one)) <= 10
    assert len(assert_round_trip(np.array([[[3]], [[-1]], [[0]]], np.int8))) <= 4
    rng = np.random.default_rng(5)
    few = np.round(rng.laplace(0, np.geomspace(4, 0.05, 48)[:, None, None], (48, 4, 4))).astype(np.int8)
    assert len(assert_round_trip(few)) < 0.95 * len(backend("rans").encode(few))


def correlated(channels=12, side=64):
    """Laplace symbols whose scale varies from place to place, and is the same in all channels: as subbands have it."""
    rng = np.random.default_rng(6)
    blocks = np.exp(rng.normal(-0.5, 1.3, (side // 8, side // 8))).repeat(8, 0).repeat(8, 1)
    return np.round(rng.laplace(0, blocks * np.geomspace(3, 0.1, channels)[:, None, None])).astype(np.int8)


def order_0_bytes(symbols):
    total = 0.0
    for plane in symbols.reshape(len(symbols), -1):
        counts = np.unique(plane, return_counts=True)[1]
        total -= (counts * np.log2(counts / counts.sum())).sum()
    return total / 8


def test_neighbours_and_earlier_channels_pay():
    symbols = correlated()
    size = len(assert_round_trip(symbols))
    assert size < 0.92 * order_0_bytes(symbols)
    # The same symbols at shuffled places: the same order-0 entropy, nothing to see around them.
    shuffled = np.random.default_rng(7).permuted(symbols.reshape(len(symbols), -1), axis=1).reshape(symbols.shape)
    assert len(coder.encode(shuffled)) > 1.1 * size
    # Every channel at places of its own: what is left and above still helps, earlier channels no longer do.
    rolled = np.stack([np.roll(plane, (16 * c, 24 * c), (0, 1)) for c, plane in enumerate(symbols)])
    assert len(coder.encode(rolled)) > 1.02 * size


def test_smooth_channels_are_predicted():
    noise = np.random.default_rng(8).integers(0, 2, (64, 64))
    smooth = (np.add.outer(np.arange(64), np.arange(64)) - 64 + noise)[None].astype(np.int8)
    assert len(assert_round_trip(smooth)) < 0.35 * order_0_bytes(smooth)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("grid", GRIDS)
def test_golden_bitstreams(dtype, grid):
    check_golden(f"ctx_{dtype}_{grid}", coder, golden_symbols(dtype, GRIDS[grid]))


_INTERPRETED = """
import sys
from pathlib import Path
import numba
from cml.codecs.entropy import backend
import numpy as np
assert numba.config.DISABLE_JIT
coder = backend("ctx")
for path in map(Path, sys.argv[1:]):
    symbols = np.load(path)
    payload = coder.encode(symbols)
    path.with_suffix(".bin").write_bytes(payload)
    assert np.array_equal(coder.decode(payload, symbols.shape, symbols.dtype), symbols)
"""


def test_interpreted_kernels_write_the_same_bytes(tmp_path):
    """Python's own integers, which cannot wrap, and numpy's, which would warn: no result hangs on the compiler."""
    arrays = [golden_symbols(dtype, grid) for dtype in ("int8", "int16") for grid in GRIDS.values()]
    arrays += [correlated(4, 24), np.random.default_rng(0).integers(-32768, 32768, (2, 5, 6)).astype(np.int16)]
    paths = [tmp_path / f"{i}.npy" for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    command = [sys.executable, "-W", "error", "-c", _INTERPRETED, *map(str, paths)]
    subprocess.run(command, check=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    for path, array in zip(paths, arrays, strict=True):
        assert path.with_suffix(".bin").read_bytes() == coder.encode(array)


@pytest.mark.parametrize("module", ["cml", "cml.codecs.entropy"])
def test_numba_is_imported_when_first_used(module):
    code = f"import sys, {module}; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damage():
    """Cut, changed, padded or foreign bytes decode to something in range or raise BitstreamError."""
    rng = np.random.default_rng(10)
    refused = 0
    for symbols in (correlated(4, 16), golden_symbols("int16", (6, 9)), golden_symbols("int8", (3, 4, 5))):
        good = coder.encode(symbols)
        damaged = [good[:n] for n in range(len(good))] + [good + bytes(n) for n in (1, 2, 9)] + [good + b"x" * 9]
        for _ in range(400):
            junk = bytearray(good)
            for position in rng.integers(0, len(junk), rng.integers(1, 5)):
                junk[position] = rng.integers(0, 256)
            damaged.append(bytes(junk))
        damaged += [rng.bytes(int(n)) for n in rng.integers(0, 2 * len(good), 200)]
        damaged += [b"\xff" * len(good), b"\xff" * 10_000, b"\xff\xff" + bytes(30) + b"\x01"]
        for payload in damaged:
            try:
                assert decoded(payload, symbols).shape == symbols.shape
            except BitstreamError:
                refused += 1
        for payload in (good + b"\0", good + b"\0\0", good + b"x" * 64):
            with pytest.raises(BitstreamError, match="not a coding"):
                decoded(payload, symbols)
    assert refused > 100


def test_symbols_out_of_range_are_refused():
    wide = np.full((2, 6, 6), 300, np.int16)
    payload = coder.encode(wide)
    with pytest.raises(BitstreamError, match="not a coding"):
        coder.decode(payload, wide.shape, np.dtype(np.int8))


def test_a_short_payload_is_no_way_to_hang():
    with contextlib.suppress(BitstreamError):
        coder.decode(b"\xff" * 7, (64, 128, 128), np.dtype(np.int16))
    assert not coder.decode(b"", (64, 128, 128), np.dtype(np.int16)).any()


def test_tables_hold_what_they_say():
    """The tables come from integers; floats only look on."""
    d = np.arange(-2048, 2048)
    assert np.abs(range_coder.squash_table() - 65536 / (1 + np.exp(-d / 256))).max() < 1
    middle = (np.arange(4096) + 0.5) / 4096
    logit = np.clip(256 * np.log(middle / (1 - middle)), -2047, 2047)
    assert np.abs(range_coder.STRETCH - logit).max() <= 13  # at the ends a step of the table is that wide
    assert np.abs(range_coder.STRETCH - logit)[64:-64].max() <= 1
    e = np.arange(4096)
    assert np.abs(range_coder.LEVEL - np.round(3 * np.log2(1 + e / 2))).max() == 0
    assert range_coder.LEVEL.max() < 36
    learned = ctx_kernel.initial()
    assert learned.shape == (ctx_kernel._SIZE,)
    assert learned.dtype == np.int32
    states = learned[: ctx_kernel._ZERO_WEIGHTS]
    assert (states >> 8).min() > 0
    assert (states >> 8).max() < 65536
    assert (states & 255).max() < range_coder.RATE.size


_LONG = """
import numpy as np
from cml.codecs.entropy import backend
coder = backend("ctx")
rng = np.random.default_rng(0)
plane = np.round(rng.laplace(0, 0.5, (800, 800))).astype(np.int8)
symbols = np.stack([np.roll(plane, k) for k in range(48)])
payload = coder.encode(symbols[:, :8])
assert np.array_equal(coder.decode(payload, symbols[:, :8].shape, symbols.dtype), symbols[:, :8])
with measured():
    {work}
"""
_DECODE = """payload = coder.encode(symbols); size = len(payload); del symbols
    coder.decode(payload, (48, 800, 800), np.dtype(np.int8))"""


@pytest.mark.parametrize("work", ["coder.encode(symbols)", _DECODE])
def test_memory_is_a_few_planes(work):
    """The symbols are 31 MB, a payload 6; as int32 they would be 123."""
    coder.encode(np.zeros((1, 1, 1), np.int8))  # compiled here, the process measured only loads it
    coder.decode(b"", (1, 1, 1), np.dtype(np.int8))
    assert peak_megabytes(_LONG.format(work=work)) < 60
