"""Shared fixtures: where the real data lies, and small real and synthetic signals."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

# Two test processes share two cores; more threads than that only wait for each other.
torch.set_num_threads(1)


def _data_folder() -> Path:
    return Path(os.environ.get("CML_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; a test that needs it is skipped where it is absent."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets; set CML_DATA (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def kodak(data: Path) -> list[Path]:
    files = sorted((data / "kodak").glob("*.png"))
    if len(files) != 24:
        pytest.skip(f"needs the 24 Kodak pictures in {data / 'kodak'}")
    return files


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of tiny pictures, told apart by a bright diagonal."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("plain", "striped")):
        (root / name).mkdir()
        for number in range(24):
            image = rng.normal(100, 12, (40, 40))
            if label:
                image[np.arange(40), np.arange(40)] += 120
                image[np.arange(40), np.roll(np.arange(40), 1)] += 120
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root
