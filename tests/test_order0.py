"""The `order0` back-end: lossless whatever it is given, small, the same bytes on any number of threads."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import check_golden, golden_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cml
from cml.codecs import order0_kernel as kernel
from cml.codecs.entropy import backend
from cml.codecs.order0 import Order0
from cml.errors import BitstreamError

GRIDS = {"1d": (1100,), "2d": (6, 9), "3d": (3, 4, 5)}
coder = Order0()


def assert_round_trip(symbols):
    payload = coder.encode(symbols)
    again = coder.decode(payload, symbols.shape, symbols.dtype)
    assert again.dtype == symbols.dtype
    assert np.array_equal(again, symbols)
    return payload


shapes = st.one_of(
    st.integers(1, 3).flatmap(lambda n: st.tuples(st.integers(1, 5), *[st.integers(1, 19)] * n)),
    st.tuples(st.integers(1, 3), st.integers(1, 5000)),
)


@st.composite
def symbol_arrays(draw):
    """Dense, sparse, constant, extreme and smooth, of either width, with outliers and empty channels."""
    dtype = draw(st.sampled_from([np.int8, np.int16]))
    shape = draw(shapes)
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["any", "laplace", "constant", "extremes", "ramp"]))
    scale = draw(st.sampled_from([0.02, 0.5, 3.0, 40.0, 3000.0]))
    noise = np.round(rng.laplace(0, scale, shape))
    x = {
        "any": lambda: rng.integers(limits.min, limits.max, shape, endpoint=True),
        "laplace": lambda: noise,
        "constant": lambda: np.full(shape, draw(st.integers(limits.min, limits.max))),
        "extremes": lambda: rng.choice([limits.min, -limits.max, limits.max, 0], shape),
        "ramp": lambda: np.cumsum(noise, axis=-1),
    }[kind]()
    outliers = rng.random(shape) < draw(st.sampled_from([0, 0.001, 0.1]))
    x = np.where(outliers, draw(st.sampled_from([limits.min, -limits.max, limits.max])), x)
    x[rng.random(len(x)) < draw(st.sampled_from([0, 0.5]))] = 0
    return np.clip(x, limits.min, limits.max).astype(dtype)


@given(symbol_arrays())
@settings(max_examples=400, deadline=None)
def test_round_trip(symbols):
    payload = assert_round_trip(symbols)
    # Noise is stored as it is: 12 bits of each block, and the four states.
    assert len(payload) <= 1.02 * symbols.nbytes + 2 * len(symbols) + 40


@given(hnp.arrays(np.int16, st.tuples(*[st.integers(1, 5)] * 3)))
@settings(max_examples=200, deadline=None)
def test_any_wide_symbols_round_trip(symbols):
    assert_round_trip(symbols)


@pytest.mark.parametrize(
    "shape", [(0, 3), (3, 0, 5), (2000, 1, 1), (1, 1, 1023), (1, 1025, 1), (2, 2, 3, 700), (3, 100_001)]
)
def test_unusual_shapes(shape):
    rng = np.random.default_rng(0)
    assert_round_trip(np.round(rng.laplace(0, 1, shape)).astype(np.int8))
    assert_round_trip(rng.integers(-32768, 32768, shape).astype(np.int16))


def test_symbols_need_not_be_contiguous_or_writable():
    symbols = np.random.default_rng(0).integers(-3, 4, (5, 6, 7)).astype(np.int8)
    assert coder.encode(symbols.transpose(2, 0, 1)) == coder.encode(symbols.transpose(2, 0, 1).copy())
    frozen = symbols.copy()
    frozen.flags.writeable = False
    assert coder.encode(frozen) == coder.encode(symbols)


def order_0_bytes(symbols):
    total = 0.0
    for plane in symbols.reshape(len(symbols), -1):
        counts = np.unique(plane, return_counts=True)[1]
        total -= (counts * np.log2(counts / counts.sum())).sum()
    return total / 8


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0, 5.0, 20.0])
def test_close_to_the_order_0_entropy(scale):
    rng = np.random.default_rng(1)
    symbols = np.round(rng.laplace(0, scale, (12, 64, 64))).clip(-127, 127).astype(np.int8)
    assert len(assert_round_trip(symbols)) < 1.035 * order_0_bytes(symbols)
    wide = np.round(rng.laplace(0, scale * 100, (12, 64, 64))).astype(np.int16)
    entropy = math.log2(2 * math.e * scale * 100) / 8 * wide.size  # of a continuous Laplacian, in bytes
    assert len(assert_round_trip(wide)) < 1.025 * entropy


def test_small_symbols_cost_few_bytes():
    assert assert_round_trip(np.zeros((12, 20, 20), np.int8)) == b""
    assert len(assert_round_trip(np.zeros((48, 128, 128), np.int8))) <= 60
    one = np.zeros((48, 20, 20), np.int8)
    one[30, 10, 10] = 1
    assert len(assert_round_trip(one)) <= 28
    few = np.round(np.random.default_rng(5).laplace(0, np.geomspace(4, 0.3, 12)[:, None, None], (12, 20, 20)))
    assert len(assert_round_trip(few.astype(np.int8))) < 1.05 * order_0_bytes(few)


def test_the_value_before_is_used_where_that_pays():
    smooth = np.cumsum(np.random.default_rng(2).integers(-1, 2, (1, 64, 64)), axis=2).clip(-128, 127).astype(np.int8)
    assert len(assert_round_trip(smooth)) < 0.6 * order_0_bytes(smooth)


def test_models_follow_the_picture():
    """A channel that is loud above and quiet below takes fewer bytes than its order-0 entropy."""
    scale = np.repeat([5.0, 0.1], 32)[:, None]
    symbols = np.round(np.random.default_rng(3).laplace(0, scale, (4, 64, 64))).astype(np.int8)
    assert len(assert_round_trip(symbols)) < 0.85 * order_0_bytes(symbols)


@pytest.mark.parametrize("name", ["rgb_f8c12:step=0.25", "rgb_f8c48:step=0.5", "rgb_f16c48:step=0.25"])
def test_real_symbols(kodak, name):
    codec = cml.create_codec(name)
    symbols = [codec.encode(cml.read_image(path)).symbols.numpy() for path in kodak[::6]]
    assert sum(len(assert_round_trip(x)) for x in symbols) < sum(map(order_0_bytes, symbols))


def large(seed=4):
    """More than one segment, some of them empty."""
    scale = np.concatenate([np.geomspace(20, 0.1, 12), np.full(8, 1e-9)])[:, None, None]
    return np.round(np.random.default_rng(seed).laplace(0, scale, (20, 100, 130))).clip(-128, 127).astype(np.int8)


def test_bytes_do_not_hang_on_threads():
    symbols = large()
    payload = assert_round_trip(symbols)
    before = torch.get_num_threads()
    try:
        for threads in (2, 3, 16):
            torch.set_num_threads(threads)
            assert assert_round_trip(symbols) == payload
            many = coder.decode_many([payload] * 3, symbols.shape, symbols.dtype)
            assert np.array_equal(many, np.stack([symbols] * 3))
            with pytest.raises(BitstreamError, match="not a coding"):
                coder.decode(payload[:-1] + b"\1", symbols.shape, symbols.dtype)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_can_use_threads_as_its_parent_did():
    code = """
import os, sys, torch, numpy as np
from cml.codecs.entropy import backend
torch.set_num_threads(2)
symbols = np.ones((4, 200, 200), np.int8)
payload = backend("order0").encode(symbols)
child = os.fork()
if not child:
    os._exit(int(backend("order0").encode(symbols) != payload))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_many_at_once(dtype):
    rng = np.random.default_rng(6)
    symbols = np.round(rng.laplace(0, np.geomspace(0.01, 50, 7)[:, None, None, None], (7, 5, 9, 8))).clip(-128, 127)
    symbols = symbols.astype(dtype)
    payloads = [coder.encode(x) for x in symbols]
    assert np.array_equal(coder.decode_many(payloads, symbols.shape[1:], symbols.dtype), symbols)
    assert coder.decode_many([], (5, 9, 8), symbols.dtype).shape == (0, 5, 9, 8)
    # Where one item ends is checked, not only where all do.
    payloads[2], payloads[3] = payloads[2] + payloads[3][:1], payloads[3][1:]
    with pytest.raises(BitstreamError, match="not a coding"):
        coder.decode_many(payloads, symbols.shape[1:], symbols.dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("grid", GRIDS)
def test_golden_bitstreams(dtype, grid):
    check_golden(f"order0_{dtype}_{grid}", coder, golden_symbols(dtype, GRIDS[grid], full=True))


def damaged(good, count, seed=10):
    """Cut, changed and foreign bytes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield good[: rng.integers(0, len(good))]
        yield rng.bytes(int(rng.integers(0, 2 * len(good))))
        junk = bytearray(good)
        for position in rng.integers(0, len(junk), rng.integers(1, 5)):
            junk[position] = rng.integers(0, 256)
        yield bytes(junk)


def outcome(payload, symbols):
    """The bytes of the symbols that a payload decodes to, or nothing."""
    try:
        decoded = coder.decode(payload, symbols.shape, symbols.dtype)
    except BitstreamError:
        return b""
    assert decoded.shape == symbols.shape
    return decoded.tobytes()


_INTERPRETED = f"""
import sys
from pathlib import Path
import numba
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_order0 as t
assert numba.config.DISABLE_JIT
for dtype in ("int8", "int16"):
    for grid in t.GRIDS.values():
        symbols = t.golden_symbols(dtype, grid)
        payload = t.assert_round_trip(symbols)
        print(payload.hex())
        for junk in t.damaged(payload, 20 if len(payload) < 1000 else 1):
            print(t.outcome(junk, symbols).hex())
"""


def test_interpreted_kernels_do_the_same():
    """No result hangs on the compiler, and Python checks the index that compiled code does not."""
    command = [sys.executable, "-W", "error", "-c", _INTERPRETED]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    run = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    lines = iter(run.stdout.split("\n"))
    for dtype in ("int8", "int16"):
        for grid in GRIDS.values():
            symbols = golden_symbols(dtype, grid)
            payload = coder.encode(symbols)
            assert next(lines) == payload.hex()
            for junk in damaged(payload, 20 if len(payload) < 1000 else 1):
                assert next(lines) == outcome(junk, symbols).hex()


def test_damage():
    """Cut, changed, padded or foreign bytes decode to something of that shape or raise BitstreamError."""
    for symbols in (golden_symbols("int16", (6, 9)), golden_symbols("int8", (3, 4, 5)), large()):
        good = coder.encode(symbols)
        trials = list(damaged(good, 400 if len(good) < 10_000 else 40))
        trials += [b"\xff" * len(good), b"\xff" * 100_000, b"\1" * 16, b"\1" * 17, bytes(50), b""]
        refused = sum(not outcome(payload, symbols) for payload in trials)
        assert refused > 0.9 * len(trials)
        for payload in (good[:-1], good[:-40], good + b"\0", good + b"x" * 64):
            with pytest.raises(BitstreamError, match="not a coding"):
                coder.decode(payload, symbols.shape, symbols.dtype)
            with pytest.raises(BitstreamError, match="not a coding"):
                coder.decode_many([good, payload], symbols.shape, symbols.dtype)
    with pytest.raises(BitstreamError, match="not a coding"):
        coder.decode(b"x", (0, 3), np.dtype(np.int8))


def test_a_short_payload_is_no_way_to_hang():
    for payload in (b"\xff" * 17, b"\xff" * 4096):
        with pytest.raises(BitstreamError, match="not a coding"):
            coder.decode(payload, (64, 128, 128), np.dtype(np.int16))


def test_tables_add_up():
    """All models: counts of at least one that sum to 4096, the same table both ways, and exact divisions."""
    counts = np.empty(129, np.int64)
    reciprocals, entries = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
    table = np.zeros(4096, np.uint32)
    for model in range(256):
        escape = kernel._encoder_table(model, counts, reciprocals, entries)
        assert kernel._decoder_table(model, counts, table) == escape
        assert -128 <= escape <= -2
        used = counts[: 1 - escape]
        assert used.min() >= 1
        assert used[0] + 2 * used[1:-1].sum() + used[-1] == 4096
        for symbol in range(escape, -escape):
            entry, reciprocal = int(entries[symbol & 255]), int(reciprocals[symbol & 255])
            count, start = entry >> 52, entry & 65535
            assert count == counts[abs(symbol)] == 4096 - (entry >> 16 & 65535)
            expected = (symbol & 255) | count << 8 | np.arange(count) << 20
            assert np.array_equal(table[start : start + count], expected)
            for state in (count, 65536, (count << 20) - 1, (count << 20) - count, 3_000_000_000 % (count << 20)):
                assert state * reciprocal < 1 << 64
                assert state * reciprocal >> 44 == state // count


def test_it_is_a_back_end():
    assert isinstance(backend("order0"), Order0)
