"""Volumes, cubes, videos and deep pictures through `cml encode`, `cml decode` and `cml info`."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory import peak_megabytes
from typer.testing import CliRunner, Result

import cml
from cml.cli import app
from cml.codecs.bitstream import Container
from cml.codecs.blocks import blocks
from cml.codecs.fit import fit_codec
from cml.data import hdr, video, volumes
from cml.data.encode_dataset import encode_dataset
from cml.data.samples import SignalFile
from cml.data.signal_files import read_signal, write_signal
from cml.errors import CmlError


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def waves(*shape: int, channels: int = 1) -> np.ndarray:
    """(C, *shape) in [0, 1]."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.stack(
        [0.5 + 0.45 * np.sin(sum(a / (5 + 2 * n + c) for n, a in enumerate(axes))) for c in range(channels)]
    )


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of codecs, fitted on the spot."""
    root = tmp_path_factory.mktemp("codecs")
    scan, clip = (torch.from_numpy(waves(24, 24, 24, channels=n).astype(np.float32)) for n in (1, 3))
    bands = torch.from_numpy(waves(40, 40, channels=12).astype(np.float32))
    fits = {
        "volume": fit_codec([scan], name="v", ndim=3, channels=1, levels=2, latent_channels=16, level="peak"),
        "video": fit_codec([clip, clip.flip(1, 2, 3)], name="m", ndim=3, channels=3, levels=1, latent_channels=8),
        "bands": fit_codec([bands], name="b", ndim=2, channels=12, levels=1, latent_channels=24, level="peak"),
    }
    for name, codec in fits.items():
        codec.config = replace(codec.config, step=0.05 if name == "video" else 0.02)
        codec.save(root / name, f"# {name}")
    return {name: str(root / name) for name in fits}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A CT of 36 slices as 16-bit integers."""
    nibabel: Any = pytest.importorskip("nibabel")
    turn = np.diag([-0.7, 0.8, 2.5, 1]) + np.array([[0, 0, 0, 11.5], [0.1, 0, 0, -7], [0, 0, 0, 3], [0, 0, 0, 0]])
    samples = (2000 * waves(36, 30, 28)[0] - 1000).astype(np.int16)
    image = nibabel.Nifti1Image(samples.T, turn)
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, 1)
    image.to_filename(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def header(path: Path) -> bytes:
    with gzip.open(path) as file:
        return file.read(352)


def test_a_scan_there_and_back(scan, codecs, tmp_path):
    done = run("encode", scan, "-o", tmp_path / "scan.cml", "-c", codecs["volume"])
    assert done.exit_code == 0, done.output
    size = (tmp_path / "scan.cml").stat().st_size
    assert f"{size} bytes, {8 * size / (36 * 30 * 28):.3f} bits a voxel, {2 * 36 * 30 * 28 / size:.1f}:1" in done.output
    done = run("decode", tmp_path / "scan.cml", "-o", tmp_path / "back.nii.gz", "-c", codecs["volume"])
    assert done.exit_code == 0 and "volume of 28x30x36" in done.output
    assert header(tmp_path / "back.nii.gz") == header(scan)
    before, after = read_signal(scan), read_signal(tmp_path / "back.nii.gz")
    assert after.facts == before.facts
    assert 0 < (before.samples.float() - after.samples.float()).abs().max() < 100  # of 1900
    done = run("decode", tmp_path / "scan.cml", "-o", tmp_path / "back.npy", "-c", codecs["volume"])
    samples = np.load(tmp_path / "back.npy")
    assert samples.dtype == np.int16 and np.array_equal(samples, after.samples[0].numpy().astype(int) - 32768)
    told = run("info", tmp_path / "scan.cml").output
    assert "bits a voxel" in told and "(1, 36, 30, 28)" in told and "fact: affine" in told and "fact: unit" in told
    assert "characters)" in told  # the whole header is not shown


def test_rates_are_met(scan, codecs, tmp_path):
    for most in (2000, 3000):
        done = run("encode", scan, "-o", tmp_path / "x.cml", "-c", codecs["volume"], "--max-bytes", most)
        assert done.exit_code == 0, done.output
        assert 0.8 * most < (tmp_path / "x.cml").stat().st_size <= most
    done = run("encode", scan, "-o", tmp_path / "x.cml", "-c", codecs["volume"], "--bpp", 0.8)
    assert 0.7 < 8 * (tmp_path / "x.cml").stat().st_size / (36 * 30 * 28) < 1.05, done.output
    done = run("encode", scan, "-o", tmp_path / "x.cml", "-c", codecs["volume"], "--max-bytes", 100)
    assert isinstance(done.exception, CmlError) and "fewer than what the facts" in str(done.exception)
    done = run("encode", scan, "-o", tmp_path / "x.cml", "--kbps", 8)
    assert isinstance(done.exception, CmlError) and "rate of sound" in str(done.exception)


def test_a_large_scan_goes_in_blocks(scan, codecs, tmp_path, monkeypatch):
    original = volumes.open_volume
    monkeypatch.setattr("cml.data.signal_files.open_volume", lambda p, i: original(p, i, voxels=1, whole=16))
    whole, parts = tmp_path / "whole.cml", tmp_path / "parts.cml"
    assert run("encode", scan, "-o", parts, "-c", codecs["volume"]).exit_code == 0
    monkeypatch.undo()
    assert run("encode", scan, "-o", whole, "-c", codecs["volume"]).exit_code == 0
    assert [Container.unpack(blob).shape[1] for blob in blocks(parts.read_bytes())] == [16, 16, 4]
    assert len(list(blocks(whole.read_bytes()))) == 1
    for source in (whole, parts):
        done = run("decode", source, "-o", source.with_suffix(".nii.gz"), "-c", codecs["volume"])
        assert done.exit_code == 0, done.output
    assert header(parts.with_suffix(".nii.gz")) == header(scan)
    one, other = (read_signal(path.with_suffix(".nii.gz")).samples.float() for path in (whole, parts))
    assert (one - other).abs().max() < 150
    assert "blocks" in run("info", parts).output and "3 of 16" in run("info", parts).output
    done = run("decode", parts, "-o", tmp_path / "some.nii.gz", "-c", codecs["volume"], "--frames", "14:20")
    assert done.exit_code == 0 and "28x30x6" in done.output
    some, full = read_signal(tmp_path / "some.nii.gz"), read_signal(scan)
    assert torch.equal(some.samples.float(), other[:, 14:20])
    place = np.array(full.facts["affine"]) @ [3, 2, 14 + 5, 1]  # a voxel stays where it was
    assert np.allclose(np.array(some.facts["affine"]) @ [3, 2, 5, 1], place, atol=1e-4)
    nibabel: Any = pytest.importorskip("nibabel")
    image = nibabel.load(tmp_path / "some.nii.gz")
    assert np.allclose(image.get_qform() @ [3, 2, 5, 1], nibabel.load(scan).get_qform() @ [3, 2, 19, 1], atol=1e-3)
    # Only the block that is asked for is decoded: another may be damaged.
    hurt = bytearray(parts.read_bytes())
    hurt[-20] ^= 255
    parts.write_bytes(bytes(hurt))
    assert run("decode", parts, "-o", tmp_path / "y.npy", "-c", codecs["volume"], "--frames", ":16").exit_code == 0
    failed = run("decode", parts, "-o", tmp_path / "z.npy", "-c", codecs["volume"])
    assert isinstance(failed.exception, CmlError) and not (tmp_path / "z.npy").exists()
    for text, sentence in (("40:", "0:36"), ("5", "START:STOP"), ("a:b", "START:STOP"), ("3:3", "none of them")):
        failed = run("decode", parts, "-o", tmp_path / "z.npy", "-c", codecs["volume"], "--frames", text)
        assert sentence in str(failed.exception)


def movie(path: Path, frames: int) -> Path:
    pytest.importorskip("av")
    x = torch.from_numpy((255 * waves(frames, 32, 48, channels=3)).astype(np.uint8))
    write_signal(path, x, {"kind": "video", "frame_rate": [30000, 1001]})
    return path


def test_a_video_goes_in_blocks_of_frames(codecs, tmp_path):
    path = movie(tmp_path / "x.mkv", 150)
    done = run("encode", path, "-o", tmp_path / "x.cml", "-c", codecs["video"])
    assert done.exit_code == 0 and "150 frames, 29.97 frames/s" in done.output, done.output
    assert [Container.unpack(blob).shape for blob in blocks((tmp_path / "x.cml").read_bytes())] == [
        (3, 64, 32, 48), (3, 64, 32, 48), (3, 22, 32, 48),
    ]  # fmt: skip
    assert run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.mkv", "-c", codecs["video"]).exit_code == 0
    before, after = read_signal(path), read_signal(tmp_path / "y.mkv")
    assert after.facts["frame_rate"] == [30000, 1001] and after.samples.shape == before.samples.shape
    assert (before.samples.float() - after.samples.float()).abs().mean() < 5
    told = run("info", tmp_path / "x.cml").output
    size = (tmp_path / "x.cml").stat().st_size
    assert f"29.97 frames/s, {8 * size * 30 / 1.001 / 150 / 1000:.2f} kbit/s" in told and "3 of 64" in told
    most = size // 2
    done = run("encode", path, "-o", tmp_path / "z.cml", "-c", codecs["video"], "--max-bytes", most)
    assert done.exit_code == 0 and 0.6 * most < (tmp_path / "z.cml").stat().st_size <= most, done.output
    done = run("encode", path, "-o", tmp_path / "z.cml", "-c", codecs["video"], "--bpp", 0.2)
    assert 0.1 < 8 * (tmp_path / "z.cml").stat().st_size / (150 * 32 * 48) < 0.3, done.output


def test_streams_of_other_codecs(tmp_path):
    path = movie(tmp_path / "x.mkv", 8)
    assert run("encode", path, "-o", tmp_path / "x.h264", "-c", "x264:crf=18").exit_code == 0
    done = run("decode", tmp_path / "x.h264", "-o", tmp_path / "y.mkv")
    assert done.exit_code == 0 and "video of 48x32x8" in done.output
    assert (read_signal(tmp_path / "y.mkv").samples.float() - read_signal(path).samples.float()).abs().mean() < 6


def test_a_long_video_takes_flat_memory(codecs, tmp_path):
    pytest.importorskip("av")
    part = torch.from_numpy((255 * waves(16, 96, 128, channels=3)).astype(np.uint8))
    write_signal(tmp_path / "x.mkv", (part for _ in range(60)), {"kind": "video"})
    movie(tmp_path / "warm.mkv", 4)
    code = f"""
from pathlib import Path
from cml.cli.signal_files import decode_signal, encode_signal
root, codec = Path({str(tmp_path)!r}), {codecs["video"]!r}
def both(name):
    encode_signal(root / f"{{name}}.mkv", root / f"{{name}}.cml", codec, None, None, None)
    decode_signal(root / f"{{name}}.cml", codec, root / f"{{name}}_back.mkv", None)
both("warm")
with measured():
    both("x")
"""
    # 960 frames: 35 MB, and 142 MB as float; a block of 64 is 2.4 and 9.4.
    assert peak_megabytes(code) < 60
    assert video.read_video(tmp_path / "x_back.mkv", start=955).samples.shape == (3, 5, 96, 128)


def test_a_cube_by_both_kinds_of_codecs(codecs, tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    cube = (3000 * waves(40, 36, channels=12)).astype(np.uint16)
    wavelengths = [400.1 + 10 * number for number in range(12)]
    savemat(tmp_path / "x.mat", {"scene": cube.transpose(1, 2, 0), "wavelengths": wavelengths})
    before = read_signal(tmp_path / "x.mat")
    for kind in ("volume", "bands"):
        done = run("encode", tmp_path / "x.mat", "-o", tmp_path / "x.cml", "-c", codecs[kind])
        assert done.exit_code == 0 and f"{12 * 40 * 36 * 2 / (tmp_path / 'x.cml').stat().st_size:.1f}:1" in done.output
        done = run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.mat", "-c", codecs[kind])
        assert done.exit_code == 0 and "cube of 36x40x12" in done.output
        after = read_signal(tmp_path / "y.mat")
        assert after.facts == before.facts and after.facts["wavelengths"] == wavelengths
        assert (before.samples.float() - after.samples.float()).abs().max() < 600
    done = run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.npy", "-c", codecs["bands"])
    assert np.load(tmp_path / "y.npy").shape == (12, 40, 36)
    done = run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.hdr", "-c", codecs["bands"])
    assert read_signal(tmp_path / "y.hdr").facts["wavelengths"] == wavelengths


def test_folders(scan, codecs, tmp_path):
    (tmp_path / "scans" / "a").mkdir(parents=True)
    for name in ("one", "a/two"):
        (tmp_path / "scans" / f"{name}.nii.gz").write_bytes(scan.read_bytes())
    np.save(tmp_path / "scans" / "three.npy", (200 * waves(9, 10, 11)[0]).astype(np.uint8))
    done = run("encode", tmp_path / "scans", "-o", tmp_path / "out", "-c", codecs["volume"])
    assert done.exit_code == 0 and "3 of 3 files" in done.output, done.output
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.cml")) == [
        "a/two.cml", "one.cml", "three.cml",
    ]  # fmt: skip
    done = run("decode", tmp_path / "out", "-o", tmp_path / "back", "-c", codecs["volume"])
    assert done.exit_code == 0, done.output
    assert header(tmp_path / "back" / "a" / "two.nii.gz") == header(scan)
    assert np.load(tmp_path / "back" / "three.npy").shape == (9, 10, 11)
    movie(tmp_path / "scans" / "x.mkv", 3)
    failed = run("encode", tmp_path / "scans", "-o", tmp_path / "out", "-c", codecs["volume"])
    assert "several kinds" in str(failed.exception)


def test_one_volume_of_several_by_index(codecs, tmp_path):
    nibabel: Any = pytest.importorskip("nibabel")
    samples = (255 * waves(14, 13, 12, 3)[0]).astype(np.uint8)
    nibabel.Nifti1Image(samples, np.eye(4)).to_filename(tmp_path / "x.nii.gz")
    failed = run("encode", tmp_path / "x.nii.gz", "-o", tmp_path / "x.cml", "-c", codecs["volume"])
    assert "choose one by index" in str(failed.exception) and not (tmp_path / "x.cml").exists()
    done = run("encode", tmp_path / "x.nii.gz", "-o", tmp_path / "x.cml", "-c", codecs["volume"], "--index", 1)
    assert done.exit_code == 0
    run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.npy", "-c", codecs["volume"])
    assert np.abs(np.load(tmp_path / "y.npy").astype(int) - samples[..., 1].T).mean() < 10


def test_channels_that_the_codec_has_not(codecs, tmp_path):
    path = movie(tmp_path / "x.mkv", 4)
    failed = run("encode", path, "-o", tmp_path / "x.cml", "-c", codecs["volume"])
    assert isinstance(failed.exception, CmlError) and "takes 1 channel(s), the signal has 3" in str(failed.exception)
    failed = run("encode", path, "-o", tmp_path / "x.cml", "-c", "rgb_f8c48")
    assert isinstance(failed.exception, CmlError) and "takes pictures, and" in str(failed.exception)


def test_light_through_a_codec_of_pictures(tmp_path):
    pytest.importorskip("OpenEXR")
    light = (np.exp(8 * waves(64, 80, channels=3)) - 0.9).astype(np.float32)  # up to 1,800
    signal = _exr(tmp_path / "x.exr", light)
    done = run("encode", tmp_path / "x.exr", "-o", tmp_path / "x.cml")
    assert done.exit_code == 0 and "rgb_f8c48" in done.output, done.output
    assert run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.exr").exit_code == 0
    codec = cml.create_codec("rgb_f8c48")
    expected = codec.decompress(codec.compress(signal.samples)).clamp(-1, 1).double().numpy() / 2 + 0.5
    again = read_signal(tmp_path / "y.exr")
    values = hdr.to_pq(_light(tmp_path / "y.exr") * signal.facts["unit"] / 10_000)
    assert np.allclose(values, expected, atol=1e-4) and again.facts["dtype"] == "float32"
    assert "pq" in run("info", tmp_path / "x.cml").output


def _light(path: Path) -> np.ndarray:
    import OpenEXR

    with OpenEXR.File(str(path)) as file:
        return np.asarray(file.channels()["RGB"].pixels, np.float64).transpose(2, 0, 1)


def _exr(path: Path, light: np.ndarray) -> SignalFile:
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": np.ascontiguousarray(light.transpose(1, 2, 0))}).write(str(path))
    return read_signal(path)


def test_sixteen_bit_colour(tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    x = (65535 * waves(40, 50, channels=3)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(codecs.png_encode(np.ascontiguousarray(x.transpose(1, 2, 0))))
    assert run("encode", tmp_path / "x.png", "-o", tmp_path / "x.cml", "-c", "rgb_f8c48:step=0.02").exit_code == 0
    assert run("decode", tmp_path / "x.cml", "-o", tmp_path / "y.png").exit_code == 0
    y = codecs.png_decode((tmp_path / "y.png").read_bytes()).transpose(2, 0, 1)
    codec = cml.create_codec("rgb_f8c48:step=0.02")
    expected = (codec.decompress(codec.compress(x)).clamp(-1, 1).double().numpy() + 1) * 32767.5
    assert y.dtype == np.uint16 and np.abs(y - expected).max() <= 0.51


def test_a_data_set_of_scans(scan, codecs, tmp_path):
    pyarrow: Any = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "one.nii.gz").write_bytes(scan.read_bytes())
    np.save(tmp_path / "scans" / "two.npy", (200 * waves(9, 10, 11)[0]).astype(np.uint8))
    manifest = encode_dataset(tmp_path / "scans", tmp_path / "out", codecs["volume"])
    assert manifest.ndim == 3 and manifest.splits["train"].samples == 2
    (shard,) = (tmp_path / "out").glob("*.parquet")
    rows = {row["id"]: row["shape"] for row in pyarrow.read_table(shard).to_pylist()}
    assert rows == {"one.nii.gz": [1, 36, 30, 28], "two.npy": [1, 9, 10, 11]}
