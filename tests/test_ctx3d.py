"""The context model of three axes: lossless whatever it is given, the same bytes compiled and not, and smaller."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import check_golden, golden_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak_megabytes

import cml
from cml.codecs.bitstream import Container
from cml.codecs.entropy import NAMES, backend, backend_by_number
from cml.errors import BitstreamError

coder, of_planes = backend("ctx", axes=3), backend("ctx")


def assert_round_trip(symbols):
    payload = coder.encode(symbols)
    again = coder.decode(payload, symbols.shape, symbols.dtype)
    assert again.dtype == symbols.dtype
    assert np.array_equal(again, symbols)
    return payload


@st.composite
def volumes(draw):
    """Dense, sparse, constant, extreme, smooth and still, of either width."""
    dtype = draw(st.sampled_from([np.int8, np.int16]))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9), st.integers(1, 19)))
    limits, rng = np.iinfo(dtype), np.random.default_rng(draw(st.integers(0, 2**32)))
    noise = np.round(rng.laplace(0, draw(st.sampled_from([0.05, 0.5, 3.0, 40.0, 9000.0])), shape))
    kind = draw(st.sampled_from(["any", "laplace", "constant", "extremes", "ramp", "still", "drift"]))
    x = {
        "any": lambda: rng.integers(limits.min, limits.max, shape, endpoint=True),
        "laplace": lambda: noise,
        "constant": lambda: np.full(shape, draw(st.integers(limits.min, limits.max))),
        "extremes": lambda: rng.choice([limits.min, limits.max, 0], shape),
        "ramp": lambda: np.cumsum(noise, axis=-1),
        "still": lambda: noise[:, :1] * 5 + np.round(noise / 9),
        "drift": lambda: np.cumsum(noise, axis=1),
    }[kind]()
    return np.clip(x, limits.min, limits.max).astype(dtype)


@given(volumes())
@settings(max_examples=400, deadline=None)
def test_round_trip(symbols):
    assert_round_trip(symbols)


@pytest.mark.parametrize("shape", [(5000, 1, 1, 1), (1, 3000, 1, 1), (1, 1, 3000, 1), (2, 1, 1, 3000), (2, 300, 2, 70)])
def test_unusual_shapes(shape):
    rng = np.random.default_rng(0)
    assert_round_trip(np.round(rng.laplace(0, 1, shape)).astype(np.int8))
    assert_round_trip(np.cumsum(rng.integers(-9, 10, shape), 1).astype(np.int16))
    assert_round_trip(rng.integers(-32768, 32768, shape).astype(np.int16))


def test_symbols_need_not_be_contiguous():
    symbols = np.random.default_rng(0).integers(-3, 4, (5, 6, 7, 8)).astype(np.int8)
    assert coder.encode(symbols.transpose(2, 0, 1, 3)) == coder.encode(symbols.transpose(2, 0, 1, 3).copy())


def test_zeros_and_noise():
    assert assert_round_trip(np.zeros((8, 16, 24, 24), np.int8)) == b""
    one = np.zeros((8, 16, 24, 24), np.int8)
    one[5, 9, 3, 20] = 1
    assert len(assert_round_trip(one)) <= 10
    noise = np.random.default_rng(4).integers(-128, 128, (4, 8, 24, 24)).astype(np.int8)
    assert noise.nbytes < len(assert_round_trip(noise)) < 1.03 * noise.nbytes


def textured(slices=24, side=36, seed=6):
    """Laplace symbols whose scale is that of their place, patches of three by three, in every slice alike."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(-0.5, 1.5, (side // 3, side // 3))).repeat(3, 0).repeat(3, 1)
    return np.round(rng.laplace(0, scale, (1, slices, side, side))).clip(-127, 127).astype(np.int8)


def test_magnitudes_in_the_slice_before_pay():
    symbols = textured()
    assert len(assert_round_trip(symbols)) < 0.965 * len(of_planes.encode(symbols))
    # Where it tells nothing either, it costs next to nothing.
    shuffled = np.random.default_rng(7).permuted(symbols.reshape(1, -1), axis=1).reshape(symbols.shape)
    assert len(assert_round_trip(shuffled)) < 1.01 * len(of_planes.encode(shuffled))


def test_symbols_that_come_again_are_predicted():
    rng = np.random.default_rng(8)
    still = rng.integers(-60, 60, (1, 1, 24, 24)) + rng.integers(-1, 2, (1, 12, 24, 24))
    assert len(assert_round_trip(still.astype(np.int8))) < 0.5 * len(of_planes.encode(still.astype(np.int8)))
    # Each slice is 0.7 of the one before, and something new: weights that no fixed predictor has.
    fading = np.zeros((1, 40, 24, 24))
    for z in range(40):
        fading[:, z] = 0.7 * fading[:, z - 1] * (z > 0) + rng.normal(0, 20, (24, 24))
    fading = np.round(fading).clip(-127, 127).astype(np.int8)
    innovation = np.round(rng.normal(0, 20, fading.shape)).clip(-127, 127).astype(np.int8)
    assert len(assert_round_trip(fading)) < 1.03 * len(coder.encode(innovation))


def test_predictions_past_the_range():
    """Slices that grow fivefold teach weights under which the last but one promises five times what int16 holds."""
    rng = np.random.default_rng(3)
    firsts = rng.integers(-2, 3, (30, 1, 16, 16))
    steep = (firsts * 5 ** np.arange(6)[:, None, None]).reshape(-1, 16, 16)
    ends = np.stack([np.full((16, 16), 32767), np.full((16, 16), -32768)])
    assert_round_trip(np.concatenate([steep, ends])[None].astype(np.int16))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_golden_bitstreams(dtype):
    check_golden(f"ctx3d_{dtype}", coder, golden_symbols(dtype, (4, 6, 7)))


_INTERPRETED = """
import sys
from pathlib import Path
import numba
from cml.codecs.entropy import backend
import numpy as np
assert numba.config.DISABLE_JIT
coder = backend("ctx", axes=3)
for path in map(Path, sys.argv[1:]):
    symbols = np.load(path)
    payload = coder.encode(symbols)
    path.with_suffix(".bin").write_bytes(payload)
    assert np.array_equal(coder.decode(payload, symbols.shape, symbols.dtype), symbols)
"""


def test_interpreted_kernels_write_the_same_bytes(tmp_path):
    """Python's own integers, which cannot wrap, and numpy's, which would warn: no result hangs on the compiler."""
    rng = np.random.default_rng(1)
    wide = rng.integers(-32768, 32768, (2, 3, 5, 6)).astype(np.int16)
    swinging = np.where(rng.random((1, 6, 9, 9)) < 0.5, -32768, 32767).astype(np.int16)
    rising = np.cumsum(rng.integers(-9, 10, (2, 9, 8, 8)), 1).astype(np.int8)
    arrays = [golden_symbols("int8", (3, 4, 5)), textured(3, 12), wide, swinging, rising]
    paths = [tmp_path / f"{i}.npy" for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    command = [sys.executable, "-W", "error", "-c", _INTERPRETED, *map(str, paths)]
    subprocess.run(command, check=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    for path, array in zip(paths, arrays, strict=True):
        assert path.with_suffix(".bin").read_bytes() == coder.encode(array)


def test_damage():
    """Cut, changed, padded or foreign bytes decode to something in range or raise BitstreamError."""
    rng, refused = np.random.default_rng(10), 0
    for symbols in (textured(4, 12), golden_symbols("int16", (3, 6, 9)), np.cumsum(textured(4, 12), 1).astype(np.int8)):
        good = coder.encode(symbols)
        damaged = [good[:n] for n in range(0, len(good), 3)] + [good + bytes(n) for n in (1, 2, 9)] + [good + b"x" * 9]
        for _ in range(300):
            junk = bytearray(good)
            for position in rng.integers(0, len(junk), rng.integers(1, 5)):
                junk[position] = rng.integers(0, 256)
            damaged.append(bytes(junk))
        damaged += [rng.bytes(int(n)) for n in rng.integers(0, 2 * len(good), 200)] + [b"\xff" * 10_000]
        for payload in damaged:
            try:
                assert coder.decode(payload, symbols.shape, symbols.dtype).shape == symbols.shape
            except BitstreamError:
                refused += 1
        for payload in (good + b"\0", good + b"x" * 64):
            with pytest.raises(BitstreamError, match="not a coding"):
                coder.decode(payload, symbols.shape, symbols.dtype)
    assert refused > 50


def test_volumes_use_it_and_older_containers_still_open():
    codec = cml.create_codec("volume_f8c8")
    x = torch.from_numpy(np.random.default_rng(2).integers(0, 255, (1, 24, 40, 48))).to(torch.uint8)
    blob = codec.compress(x)
    container, latent = Container.unpack(blob), codec.unpack(blob)
    assert backend_by_number(container.backend) is coder
    assert NAMES[container.backend] == "ctx"
    older = replace(container, backend=of_planes.number, payload=of_planes.encode(latent.symbols.numpy())).pack()
    assert torch.equal(codec.decompress(older), codec.decompress(blob))


_LONG = """
import numpy as np
from cml.codecs.entropy import backend
coder = backend("ctx", axes=3)
rng = np.random.default_rng(0)
plane = np.round(rng.laplace(0, 0.5, (8, 250, 400))).astype(np.int8)
symbols = np.stack([np.roll(plane, k) for k in range(40)])
payload = coder.encode(symbols[:, :1])
assert np.array_equal(coder.decode(payload, symbols[:, :1].shape, symbols.dtype), symbols[:, :1])
with measured():
    coder.encode(symbols)
"""


def test_memory_is_a_few_planes():
    """The symbols are 32 MB, a payload 6; as int32 they would be 128."""
    coder.encode(np.zeros((1, 1, 1, 1), np.int8))  # compiled here, the process measured only loads it
    coder.decode(b"", (1, 1, 1, 1), np.dtype(np.int8))
    assert peak_megabytes(_LONG) < 60
