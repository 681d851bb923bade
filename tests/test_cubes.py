"""Cubes: MATLAB, ENVI and GeoTIFF come back with their samples, their wavelengths and their place on Earth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cml.codecs.bitstream import attach, facts
from cml.codecs.fit import fit_codec
from cml.data.cubes import parse_envi, read_cube
from cml.data.samples import SignalFile, restore
from cml.data.signal_files import kind_of, read_signal, write_signal
from cml.data.signal_sets import load_signals
from cml.errors import DataError

WAVELENGTHS = [400.5 + 9.7 * number for number in range(12)]


def cube(dtype: str = "uint16") -> np.ndarray:
    """(bands, y, x): each pixel a spectrum, no two alike."""
    bands, y, x = np.meshgrid(np.arange(12), np.arange(30), np.arange(26), indexing="ij")
    values = 3000 + 2500 * np.sin(bands / 4 + x / 9) * np.cos(y / 7) + 3 * y + x / 8
    return values.astype(dtype)


def through_container(signal: SignalFile) -> tuple[torch.Tensor, dict[str, Any]]:
    """A signal as a lossy codec with its bands as channels gives it back."""
    x = signal.samples[0] if signal.kind == "cube" else signal.samples
    fit = fit_codec(
        [x], name="c", ndim=2, channels=len(x), levels=1, latent_channels=4 * len(x), step=1e-3, level="peak"
    )
    blob = attach(fit.compress(x), signal.facts)
    y = fit.decompress(blob)
    return (y[None] if signal.kind == "cube" else y), facts(blob)


def test_the_jasper_ridge_file(data, tmp_path):
    loadmat = pytest.importorskip("scipy.io").loadmat
    path = data / "hyperspectral" / "jasperRidge2_R198.mat"
    signal, content = read_signal(path), loadmat(path)
    assert signal.kind == "cube" and signal.samples.shape == (1, 198, 100, 100)
    assert signal.samples.dtype == torch.uint16
    for row, column in ((0, 1), (7, 0), (99, 42)):  # MATLAB counts down the columns
        assert np.array_equal(signal.samples[0, :, row, column].numpy(), content["Y"][:, row + 100 * column])
    assert signal.facts["band_numbers"] == content["SlectBands"].ravel().tolist()
    write_signal(tmp_path / "again.mat", signal.samples, signal.facts)
    again = loadmat(tmp_path / "again.mat")
    for name in ("Y", "nRow", "nCol", "nBand", "SlectBands"):
        assert np.array_equal(again[name], content[name])
    assert read_signal(tmp_path / "again.mat").facts == signal.facts


def test_jasper_is_split_by_rows(data):
    folder = data / "hyperspectral"
    jasper = load_signals(f"jasper:{folder}")
    whole = read_signal(folder / "jasperRidge2_R198.mat").samples
    (train,), (test,) = jasper.train, jasper.test
    assert torch.equal(torch.cat([train.read().samples, test.read().samples], 2), whole)
    assert test.read().samples.shape == (1, 198, 30, 100) and jasper.kind == "cube"


def test_matlab_cubes_of_three_axes(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    samples = cube().transpose(1, 2, 0)
    savemat(tmp_path / "x.mat", {"scene": samples, "wavelengths": WAVELENGTHS, "gt": np.ones((30, 26))})
    signal = read_signal(tmp_path / "x.mat")
    assert np.array_equal(signal.samples[0].numpy(), cube()) and signal.facts["wavelengths"] == WAVELENGTHS
    y, told = through_container(signal)
    write_signal(tmp_path / "y.mat", y, told)
    again = read_signal(tmp_path / "y.mat")
    assert np.abs(restore(again.samples, again.facts)[0].astype(int) - cube()).max() <= 3
    assert again.facts == signal.facts
    savemat(tmp_path / "two.mat", {"a": samples, "b": samples})
    with pytest.raises(DataError, match=r"should hold one array .* it holds a \(30, 26, 12\), b"):
        read_signal(tmp_path / "two.mat")
    savemat(tmp_path / "flat.mat", {"Y": samples.reshape(-1, 12)})
    with pytest.raises(DataError, match="nRow and nCol"):
        read_signal(tmp_path / "flat.mat")
    savemat(tmp_path / "complex.mat", {"a": samples * 1j})
    with pytest.raises(DataError, match="complex samples"):
        read_signal(tmp_path / "complex.mat")
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 5.0 MAT-file, but not really" * 9)
    with pytest.raises(DataError, match=r"Cannot read .*bad\.mat as a MATLAB file"):
        read_signal(tmp_path / "bad.mat")


@pytest.mark.parametrize("layout", ["bands x pixels", "pixels x bands"])
def test_matlab_pixels_in_a_row(layout, tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    flat = cube().transpose(2, 1, 0).reshape(-1, 12)  # columns one after another
    content = {"Y": flat.T if layout == "bands x pixels" else flat, "nRow": 30, "nCol": 26, "A": np.ones((4, 780))}
    savemat(tmp_path / "x.mat", content)
    signal = read_signal(tmp_path / "x.mat")
    assert np.array_equal(signal.samples[0].numpy(), cube()) and signal.facts["layout"] == layout
    write_signal(tmp_path / "y.mat", signal.samples, signal.facts)
    assert torch.equal(read_signal(tmp_path / "y.mat").samples, signal.samples)


# GeoTIFF, made and compared by rasterio ------------------------------------------------------------------------------


def geotiff(path: Path, samples: np.ndarray, **more: Any) -> Path:
    rasterio: Any = pytest.importorskip("rasterio")
    profile = {
        "driver": "GTiff", "count": len(samples), "height": samples.shape[1], "width": samples.shape[2],
        "dtype": samples.dtype, "crs": "EPSG:32610", "nodata": 0,
        "transform": rasterio.Affine(30.0, 0.1, 560123.25, -0.1, -30.0, 4140321.75),
    }  # fmt: skip
    with rasterio.open(path, "w", **(profile | more)) as file:
        file.write(samples)
        for band in range(len(samples)):
            file.set_band_description(band + 1, f"band {band}")
            file.update_tags(band + 1, wavelength=str(WAVELENGTHS[band]), wavelength_units="Nanometers")
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_geotiff_field_by_field(dtype, tmp_path):
    rasterio: Any = pytest.importorskip("rasterio")
    samples = cube("float64") / (30 if dtype == "uint8" else 1) - (4000 if dtype == "int16" else 0)
    path = geotiff(tmp_path / "x.tif", samples.astype(dtype))
    signal = read_signal(path)
    assert kind_of(path) == signal.kind == "cube" and signal.facts["crs"] == "EPSG:32610"
    y, told = through_container(signal)
    assert told == signal.facts and told["wavelengths"] == WAVELENGTHS
    write_signal(tmp_path / "y.tif", y, told)
    with rasterio.open(path) as before, rasterio.open(tmp_path / "y.tif") as after:
        for name in ("crs", "transform", "nodata", "dtypes", "descriptions", "shape", "count"):
            assert getattr(before, name) == getattr(after, name), name
        assert [before.tags(band) for band in before.indexes] == [after.tags(band) for band in after.indexes]
        assert np.abs(before.read().astype(float) - after.read()).max() < 0.003 * np.ptp(samples)
    write_signal(tmp_path / "z.tif", signal.samples, told)
    with rasterio.open(tmp_path / "z.tif") as exact:
        assert np.array_equal(exact.read(), samples.astype(dtype))


def test_another_projection_travels_as_text(tmp_path):
    rasterio: Any = pytest.importorskip("rasterio")
    projection = rasterio.crs.CRS.from_proj4("+proj=laea +lat_0=47.25 +lon_0=11.5 +ellps=bessel +units=m")
    signal = read_signal(geotiff(tmp_path / "x.tif", cube(), crs=projection))
    write_signal(tmp_path / "y.tif", signal.samples, signal.facts)
    with rasterio.open(tmp_path / "y.tif") as after, rasterio.open(tmp_path / "x.tif") as before:
        assert before.crs == after.crs == projection


def test_rasters_of_one_and_three_bands_are_pictures(tmp_path):
    path = geotiff(tmp_path / "x.tif", cube()[:3])
    signal = read_signal(path)
    assert signal.kind == kind_of(path) == "picture" and signal.samples.shape == (3, 30, 26)
    y, told = through_container(signal)
    write_signal(tmp_path / "y.tif", y, told)
    assert read_signal(tmp_path / "y.tif").facts == signal.facts
    heights = geotiff(tmp_path / "heights.tif", cube("float32")[:1] - 9000)  # no light: no curve, its own unit
    assert read_signal(heights).kind == "cube" and float(read_signal(heights).samples.max()) < 0


def test_tiff_that_cannot_be_read(tmp_path):
    path = geotiff(tmp_path / "x.tif", cube())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.tif is no volume, cube, .* or is damaged"):
        read_signal(path)
    with pytest.raises(DataError, match=r"Cannot read .*x\.tif"):
        read_cube(path)
    with pytest.raises(DataError, match=r"Cubes are written as \.mat"):
        write_signal(tmp_path / "x.png", torch.zeros(1, 12, 3, 4), {"kind": "cube"})


# ENVI, made and read by GDAL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_envi_of_gdal(interleave, dtype, tmp_path):
    samples = (cube("float64") / (30 if dtype == "uint8" else 1)).astype(dtype)
    path = geotiff(
        tmp_path / "x.img",
        samples,
        driver="ENVI",
        interleave=interleave.replace("bsq", "band").replace("bil", "line").replace("bip", "pixel"),
    )
    header = tmp_path / "x.hdr"
    text = header.read_text().rstrip() + "\nwavelength units = Nanometers\nwavelength = {\n"
    header.write_text(text + ",\n ".join(map(str, WAVELENGTHS)) + "}\n")
    for name in (header, path):
        signal = read_signal(name)
        assert signal.kind == kind_of(name) == "cube" and signal.facts["wavelengths"] == WAVELENGTHS
        assert signal.facts["wavelength_unit"] == "Nanometers" and signal.facts["dtype"] == dtype
        assert np.array_equal(restore(signal.samples, signal.facts)[0], samples.astype("f4").astype(dtype))
    y, told = through_container(signal)
    (tmp_path / "out").mkdir()
    write_signal(tmp_path / "out" / "y.hdr", y, told)
    import rasterio

    with rasterio.open(tmp_path / "out" / "y.img") as after, rasterio.open(path) as before:
        for name in ("crs", "transform", "dtypes", "shape", "count"):
            assert getattr(before, name) == getattr(after, name), name
        assert np.abs(before.read().astype(float) - after.read()).max() < 0.003 * np.ptp(samples.astype(float))
    changed = {"interleave", "byte order", "file type", "header offset"}
    old, new = (parse_envi(file.read_text()) for file in (header, tmp_path / "out" / "y.hdr"))
    assert {k: v for k, v in old.items() if k not in changed} == {k: v for k, v in new.items() if k not in changed}


def test_envi_headers_by_hand(tmp_path):
    header = tmp_path / "scene.img.hdr"
    text = "ENVI\ndescription = {\n  a = b, by hand}\nSamples = 4\nlines=3\nbands = 2\ndata type = 2\n"
    text += "Interleave = BIL\nbyte order = 1\nheader offset = 5\n"
    header.write_text(text)
    samples = (np.arange(24).reshape(3, 2, 4) - 9).astype(">i2")
    (tmp_path / "scene.img").write_bytes(b"12345" + samples.tobytes())
    signal = read_signal(tmp_path / "scene.img")
    assert np.array_equal(restore(signal.samples, signal.facts)[0], samples.swapaxes(0, 1))
    assert torch.equal(read_signal(header).samples, signal.samples)
    write_signal(tmp_path / "y.hdr", signal.samples, signal.facts)
    assert torch.equal(read_signal(tmp_path / "y.img").samples, signal.samples)
    assert "a = b, by hand}" in (tmp_path / "y.hdr").read_text()
    (tmp_path / "scene.img").write_bytes(b"12345")
    with pytest.raises(DataError, match="is cut off"):
        read_signal(header)
    (tmp_path / "scene.img").unlink()
    with pytest.raises(DataError, match=r"samples of .* are missing"):
        read_signal(header)
    header.write_text(text.replace("bands", "stripes"))
    with pytest.raises(DataError, match="does not tell"):
        read_signal(header)


def test_a_cube_without_a_header_of_its_own_becomes_envi(tmp_path):
    signal = SignalFile(torch.from_numpy(cube())[None], {"kind": "cube", "dtype": "uint16", "wavelengths": WAVELENGTHS})
    write_signal(tmp_path / "y.hdr", signal.samples, signal.facts)
    again = read_signal(tmp_path / "y.hdr")
    assert torch.equal(again.samples, signal.samples) and again.facts["wavelengths"] == WAVELENGTHS
