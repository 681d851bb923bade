"""Volumes: NIfTI, arrays and DICOM come back with their samples and with everything that their headers say."""

import gzip
import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory import peak_megabytes
from typer.testing import CliRunner

from cml.cli import app
from cml.codecs.bitstream import attach, facts
from cml.codecs.fit import fit_codec
from cml.data import volumes
from cml.data.samples import restore
from cml.data.signal_files import is_signal, kind_of, read_signal, write_signal
from cml.data.signal_sets import load_signals
from cml.data.volumes import open_volume, read_volume
from cml.errors import DataError

nibabel: Any = pytest.importorskip("nibabel")
SCANS = ("CT_AVM", "CT_pitch", "MR_Gd", "chris_MRA", "chris_t1", "mricron_aal", "mricron_ch2")


def blob(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Waves in [0, 1], smooth enough for a codec."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return 0.5 + 0.5 * np.sin(sum(axis / (7 + 3 * number + seed) for number, axis in enumerate(axes)))


def nifti(path: Path, samples: np.ndarray, kind: Any = None, **fields: Any) -> Path:
    """Samples (x, y, z, ...) with an odd geometry."""
    turn = np.array([[-1.2, 0.1, 0, 30.25], [0.1, 0.9, 0.2, -11.5], [0, -0.3, 2.5, 7.125], [0, 0, 0, 1]])
    image = (kind or nibabel.Nifti1Image)(samples, turn)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a test"
    for name, value in fields.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.mark.parametrize("name", SCANS)
def test_real_scans_come_back_to_the_last_byte(name, data, tmp_path):
    path = data / "volumes" / f"{name}.nii.gz"
    scan = read_signal(path)
    image = nibabel.load(path)
    assert scan.kind == "volume" and scan.samples.dtype == torch.uint8
    assert np.array_equal(scan.samples[0].numpy(), np.asarray(image.dataobj.get_unscaled()).T)
    assert scan.facts["affine"] == image.affine.tolist()
    assert scan.facts["spacing"] == [float(step) for step in image.header.get_zooms()[::-1]]
    told = facts(attach(fitted().compress(scan.samples[:, :8, :8, :8]), scan.facts))  # through a container
    assert told == scan.facts and len(str(told)) < 1500
    write_signal(tmp_path / "again.nii.gz", scan.samples, told)
    assert unpacked(tmp_path / "again.nii.gz") == unpacked(path)
    lossy = scan.samples.float() / 127.5 - 1 + 0.003 * torch.randn(scan.samples.shape)
    write_signal(tmp_path / "lossy.nii.gz", lossy, told)
    other = nibabel.load(tmp_path / "lossy.nii.gz")
    for name in image.header:
        assert np.array_equal(other.header[name], image.header[name], equal_nan=image.header[name].dtype.kind == "f")
    assert np.array_equal(other.affine, image.affine) and (other.dataobj.slope, other.dataobj.inter) == (
        image.dataobj.slope,
        image.dataobj.inter,
    )


def fitted(level: str = "peak") -> Any:
    x = torch.from_numpy(blob((24, 24, 24)).astype(np.float32))[None]
    return fit_codec([x], name="v", ndim=3, channels=1, levels=2, latent_channels=16, step=0.02, level=level)


def test_the_scans_as_a_set(data):
    scans = load_signals(f"volumes:{data / 'volumes'}")
    assert scans.kind == "volume" and [scan.name for scan in scans.test] == ["CT_AVM", "chris_t1"]
    assert [scan.name for scan in scans.train] == ["CT_pitch", "MR_Gd", "chris_MRA", "mricron_ch2"]  # no labels
    again = pickle.loads(pickle.dumps(scans.train[0])).read()
    assert torch.equal(again.samples, read_signal(data / "volumes" / "CT_pitch.nii.gz").samples)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "inside"),
    [
        ("uint8", 0, 255, torch.uint8), ("int8", -128, 127, torch.uint8), ("uint16", 0, 65535, torch.uint16),
        ("int16", -1024, 3071, torch.uint16), ("int32", -5, 30000, torch.uint16), ("int32", 0, 65535, torch.uint16),
        ("float32", -3.5, 1e4, torch.float32), ("float64", -3.5, 1e4, torch.float32), (">i2", -9, 9, torch.uint16),
        (">f4", 0, 1, torch.float32),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".nii", ".npy"])
def test_every_kind_of_samples(dtype, low, high, inside, suffix, tmp_path):
    samples = (low + (high - low) * blob((5, 6, 7))).astype(dtype)
    samples.flat[:2] = low, high
    path = tmp_path / f"x{suffix}"
    if suffix == ".nii":
        nifti(path, samples.T if samples.dtype.isnative else samples.T.astype(samples.dtype.newbyteorder("=")))
    else:
        np.save(path, samples)
    scan = read_signal(path)
    assert scan.samples.shape == (1, 5, 6, 7) and scan.samples.dtype == inside
    assert scan.facts["dtype"] == np.dtype(dtype).newbyteorder("=").name
    write_signal(tmp_path / f"y{suffix}", scan.samples, scan.facts)
    again = read_signal(tmp_path / f"y{suffix}")
    assert torch.equal(again.samples.double(), scan.samples.double()) and again.facts == scan.facts
    if np.dtype(dtype) != np.float64:
        assert np.array_equal(restore(again.samples, again.facts)[0], samples)
    if inside != torch.float32:  # what a codec gives: floats, a little beside and a little past the ends
        full = 255 if inside == torch.uint8 else 65535
        noisy = scan.samples.float() * (2 / full) - 1 + 0.9 / full * torch.sign(torch.rand(1, 5, 6, 7) - 0.5)
        back = restore(noisy, scan.facts)
        assert back.dtype == np.dtype(dtype).newbyteorder("=") and np.array_equal(back[0], samples)
        assert (restore(torch.full((1, 1), 1.5), scan.facts) >= samples.max()).all()


def test_lossy_decoding_keeps_the_unit_of_floats(tmp_path):
    samples = (-300 + 2000 * blob((20, 20, 20))).astype(np.float32)
    path = nifti(tmp_path / "x.nii.gz", samples, scl_slope=1, scl_inter=0)
    scan = read_signal(path)
    codec = fitted()
    told = attach(codec.compress(scan.samples), scan.facts)
    write_signal(tmp_path / "y.nii.gz", codec.decompress(told), facts(told))
    back = nibabel.load(tmp_path / "y.nii.gz")
    assert np.abs(np.asarray(back.dataobj) - samples).max() < 150 and back.get_data_dtype() == np.float32
    assert np.array_equal(back.affine, nibabel.load(path).affine)


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_travel_whole(kind, suffix, tmp_path):
    samples = (3000 * blob((6, 7, 8)) - 1000).astype(np.int16)
    path = nifti(tmp_path / f"x{suffix}", samples, getattr(nibabel, kind), intent_code=1003)
    image = nibabel.load(path)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a word of the scanner"))
    image.header.set_slope_inter(0.5, -7.25)
    image = type(image)(samples, image.affine, image.header)
    image.header.set_slope_inter(0.5, -7.25)
    image.to_filename(path)
    scan = read_signal(path)
    assert (scan.facts["slope"], scan.facts["intercept"], scan.facts["unit"]) == (0.5, -7.25, "mm")
    write_signal(tmp_path / f"y{suffix}", scan.samples, scan.facts)
    assert unpacked(tmp_path / f"y{suffix}") == unpacked(path)
    assert b"a word of the scanner" in unpacked(tmp_path / f"y{suffix}")


def test_long_extensions_stay_behind(tmp_path):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4))
    noise = np.random.default_rng(0).bytes(20_000)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", noise))
    image.to_filename(tmp_path / "x.nii")
    scan = read_signal(tmp_path / "x.nii")
    assert "header extensions" in scan.facts["left_out"] and len(scan.facts["nifti"]) < 1000
    write_signal(tmp_path / "y.nii", scan.samples, scan.facts)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "y.nii").dataobj), np.ones((4, 5, 6)))


def test_one_volume_of_several(tmp_path):
    samples = np.arange(4 * 5 * 6 * 3, dtype=np.uint16).reshape(4, 5, 6, 3)
    path = nifti(tmp_path / "x.nii.gz", samples)
    with pytest.raises(DataError, match=r"holds 3 volumes of \(6, 5, 4\): choose one by index, 0 to 2"):
        read_signal(path)
    with pytest.raises(DataError, match="no index 3"):
        read_volume(path, 3)
    scan = read_signal(path, index=2)
    assert np.array_equal(scan.samples[0].numpy(), samples[..., 2].T)
    write_signal(tmp_path / "y.nii.gz", scan.samples, scan.facts)
    back = nibabel.load(tmp_path / "y.nii.gz")
    assert back.shape == (4, 5, 6) and np.array_equal(back.affine, nibabel.load(path).affine)


def test_what_no_codec_takes_is_one_sentence(tmp_path):
    wrong: dict[str, tuple[np.ndarray, str]] = {
        "complex": (np.ones((2, 3, 4), np.complex64), "complex samples"),
        "wide": (np.full((2, 3, 4), 70000, np.int32), "past 16 bits"),
        "nan": (np.full((2, 3, 4), np.nan, np.float32), "NaN or infinity"),
        "inf": (np.full((2, 3, 4), 1e300), "NaN or infinity"),
        "empty": (np.ones((2, 0, 4), np.uint8), "is empty"),
        "flat": (np.ones((3, 4), np.uint8), "no volume"),
    }
    for name, (samples, sentence) in wrong.items():
        np.save(tmp_path / f"{name}.npy", samples)
        with pytest.raises(DataError, match=sentence):
            read_signal(tmp_path / f"{name}.npy")
    colour = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match="structured samples"):
        read_signal(nifti(tmp_path / "rgb.nii", colour))
    with pytest.raises(DataError, match="complex samples"):
        read_signal(nifti(tmp_path / "complex.nii", wrong["complex"][0]))
    (tmp_path / "text.nii").write_text("no scan at all")
    with pytest.raises(DataError, match=r"Cannot read .* as NIfTI"):
        read_signal(tmp_path / "text.nii")
    whole = nifti(tmp_path / "whole.nii.gz", (255 * blob((20, 20, 20))).astype(np.uint8)).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_signal(tmp_path / "cut.nii.gz")
    with pytest.raises(DataError, match="There is no file"):
        read_signal(tmp_path / "none.nii")
    with pytest.raises(DataError, match=r"Volumes are written as \.nii"):
        write_signal(tmp_path / "x.jpg", torch.zeros(1, 2, 3, 4), {})
    assert not is_signal(tmp_path / "x.jpg") and kind_of(tmp_path / "x.nii.gz") == "volume"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_arrays_of_several_channels_and_of_archives(tmp_path):
    samples = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    np.savez_compressed(tmp_path / "x.npz", names=np.array(["a"]), scan=samples)
    scan = read_signal(tmp_path / "x.npz")
    assert np.array_equal(scan.samples.numpy(), samples)
    write_signal(tmp_path / "y.npz", scan.samples, scan.facts)
    with np.load(tmp_path / "y.npz") as file:
        assert np.array_equal(file["volume"], samples)
    with pytest.raises(DataError, match="NIfTI file holds one volume"):
        write_signal(tmp_path / "y.nii", scan.samples, scan.facts)
    np.savez(tmp_path / "two.npz", a=samples, b=samples)
    with pytest.raises(DataError, match="holds 2 arrays"):
        read_signal(tmp_path / "two.npz")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", b"no array")
    (tmp_path / "bad.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="holds 0 arrays"):
        read_signal(tmp_path / "bad.npz")
    (tmp_path / "bad.npz").write_bytes(buffer.getvalue()[:-5])
    with pytest.raises(DataError, match="Cannot read"):
        read_signal(tmp_path / "bad.npz")


def test_blocks_are_the_parts_of_the_whole(tmp_path, monkeypatch):
    samples = (60000 * blob((6, 5, 41))).astype(np.uint16)
    path = nifti(tmp_path / "x.nii.gz", samples)
    parts = list(open_volume(path, voxels=6 * 5 * 17, whole=8))
    assert [part.shape[1] for part in parts] == [16, 16, 9]
    assert torch.equal(torch.cat(parts, 1), read_volume(path).samples)
    blocks = open_volume(path, voxels=1, whole=4)
    write_signal(tmp_path / "y.nii.gz", blocks, blocks.facts, (1, 41, 5, 6))
    assert unpacked(tmp_path / "y.nii.gz") == unpacked(path)
    blocks = open_volume(path, voxels=1, whole=4)
    volumes.write_volume(tmp_path / "y.npy", blocks, blocks.facts, (1, 41, 5, 6))
    assert np.array_equal(np.load(tmp_path / "y.npy"), samples.T)


def test_a_large_scan_is_read_in_flat_memory(tmp_path):
    path = tmp_path / "x.nii.gz"
    image = nibabel.Nifti1Image(np.zeros((256, 256, 384), np.uint8), np.eye(4))  # 25 MB
    image.to_filename(path)
    code = f"""
from cml.data.signal_sets import load_signals
from cml.data.volumes import open_volume, write_volume
blocks = open_volume({str(path)!r}, voxels=1 << 19, whole=8)
next(iter(open_volume({str(path)!r}, voxels=1 << 19, whole=8)))
with measured():
    write_volume({str(tmp_path / "y.nii.gz")!r}, blocks, blocks.facts, (1, 384, 256, 256))
"""
    assert peak_megabytes(code) < 12
    assert unpacked(tmp_path / "y.nii.gz") == unpacked(path)


# DICOM ---------------------------------------------------------------------------------------------------------------


def dicom_series(folder: Path, samples: np.ndarray, **fields: Any) -> Path:
    """Slices (z, y, x) in a plane of its own, their files in no order."""
    pydicom: Any = pytest.importorskip("pydicom")
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(samples):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{number + 1}"
        data.PatientName, data.PatientID, data.Modality, data.SeriesInstanceUID = "Doe^Jane", "77", "CT", "1.2.3"
        data.Rows, data.Columns = plane.shape
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.SamplesPerPixel, data.PhotometricInterpretation = 15, 1, "MONOCHROME2"
        data.PixelRepresentation = int(plane.dtype == np.int16)
        data.PixelSpacing, data.SliceThickness = ["0.703125", "0.71"], "2.5"
        data.ImageOrientationPatient = [1, 0, 0, 0, 0.8, 0.6]
        data.ImagePositionPatient = [-100.5, 20 - 1.5 * number, 7.25 + 2 * number]
        data.InstanceNumber = 100 - number
        data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
        data.WindowCenter, data.WindowWidth = [40, 300], [400, 1500]
        for name, value in fields.items():
            setattr(data, name, value[number] if isinstance(value, list) and name != "PixelSpacing" else value)
        data.PixelData = plane.tobytes()
        data.save_as(folder / f"{(number * 7) % 10}{number}.dcm", enforce_file_format=True)
    return folder


def test_dicom_series(tmp_path):
    samples = (3000 * blob((6, 8, 9))).astype(np.int16)
    folder = dicom_series(tmp_path / "series", samples)
    scan = read_signal(folder)
    assert np.array_equal(restore(scan.samples, scan.facts)[0], samples)
    told = facts(attach(fitted().compress(scan.samples), scan.facts))
    assert told == scan.facts and "Doe" not in str(told) and "77" not in str(told)
    assert told["modality"] == "CT" and (told["slope"], told["intercept"]) == (1.0, -1024.0)
    assert told["spacing"] == [2.5, 0.703125, 0.71] and told["window"] == [40.0, 400.0]
    assert told["orientation"] == [1, 0, 0, 0, 0.8, 0.6]
    assert told["positions"] == [[-100.5, 20 - 1.5 * number, 7.25 + 2 * number] for number in range(6)]
    write_signal(tmp_path / "x.nii.gz", scan.samples, told)
    image = nibabel.load(tmp_path / "x.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), samples.T.astype(float) - 1024)
    # Column 3, row 2, slice 4: DICOM's own formula, with left and back turned to right and front.
    left, back, up = (
        np.array([-100.5, 14, 15.25]) + 3 * 0.71 * np.array([1, 0, 0]) + 2 * 0.703125 * np.array([0, 0.8, 0.6])
    )
    assert np.allclose(image.affine @ [3, 2, 4, 1], [-left, -back, up, 1], atol=1e-4)


def test_a_folder_of_slices_is_one_scan_for_cml_encode(tmp_path):
    folder = dicom_series(tmp_path / "series", (3000 * blob((12, 16, 18))).astype(np.int16))
    fitted().save(tmp_path / "v", "# v")
    done = CliRunner().invoke(app, ["encode", str(folder), "-o", f"{tmp_path}/x.cml", "-c", f"{tmp_path}/v"])
    assert done.exit_code == 0 and "bits a voxel" in done.output, done.output
    done = CliRunner().invoke(app, ["decode", f"{tmp_path}/x.cml", "-o", f"{tmp_path}/x.nii.gz", "-c", f"{tmp_path}/v"])
    assert done.exit_code == 0, done.output
    assert np.allclose(nibabel.load(tmp_path / "x.nii.gz").affine, read_signal(folder).facts["affine"], atol=1e-4)


def test_dicom_that_is_no_volume(tmp_path):
    samples = (3000 * blob((3, 8, 9))).astype(np.uint16)
    folder = dicom_series(tmp_path / "two", samples, SeriesInstanceUID=["1.1", "1.1", "1.2"])
    with pytest.raises(DataError, match="holds 2 series: choose one by index"):
        read_signal(folder)
    assert read_signal(folder, index=1).samples.shape == (1, 1, 8, 9)
    folder = dicom_series(tmp_path / "time", samples, ImagePositionPatient=[[0, 0, 0], [0, 0, 0], [0, -1.2, 1.6]])
    with pytest.raises(DataError, match="several slices at one place"):
        read_signal(folder)
    folder = dicom_series(tmp_path / "turned", samples)
    dicom_series(folder, samples[:1], ImageOrientationPatient=[[0, 1, 0, 0, 0, 1]])
    with pytest.raises(DataError, match="do not lie in one direction"):
        read_signal(folder)
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(DataError, match=r"Cannot read .*text\.dcm as DICOM"):
        read_signal(tmp_path / "text.dcm")
    cut = tmp_path / "cut.dcm"
    cut.write_bytes((folder / "71.dcm").read_bytes()[:-30])
    with pytest.raises(DataError, match="Cannot read"):
        read_signal(cut)
    (tmp_path / "bare.dcm").write_bytes(bytes(128) + b"DICM" + b"nonsense")
    with pytest.raises(DataError, match="holds no pictures"):
        read_signal(tmp_path / "bare.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no DICOM files"):
        read_signal(tmp_path / "empty")


def test_slices_with_a_scale_each_are_rescaled(tmp_path):
    samples = (3000 * blob((3, 8, 9))).astype(np.uint16)
    slopes = [0.5, 0.25, 2.0]
    folder = dicom_series(tmp_path / "pet", samples, RescaleSlope=slopes, RescaleIntercept="0")
    scan = read_signal(folder)
    assert scan.facts["rescaled"] and scan.samples.dtype == torch.float32 and "slope" not in scan.facts
    assert np.allclose(scan.samples[0].numpy(), samples * np.array(slopes)[:, None, None])


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("nibabel", "x.nii"), ("pydicom", "x.dcm"), ("rasterio", "x.tif"), ("av", "x.mkv"), ("OpenEXR", "x.exr"),
        ("imagecodecs", "x.hdr"),
    ],
)  # fmt: skip
def test_a_missing_package_is_one_sentence(package, name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("cml.data.hdr.deep_picture", lambda path: "cube")
    (tmp_path / name).write_bytes(bytes(400))
    with pytest.raises(DataError, match=rf"need the package {package}: pip install 'cml-toolkit\[volumes\]'"):
        read_signal(tmp_path / name)
