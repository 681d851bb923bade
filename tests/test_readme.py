"""The README is true: its code runs, its commands parse, its map names every file, its pictures exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from helpers import ROOT, photo

import cml
from cml import cli

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a newcomer stands: a photo, and a folder of photos."""
    root = tmp_path_factory.mktemp("newcomer")
    cml.write_image(root / "photo.png", photo((240, 256)).float() / 127.5 - 1)
    for number in range(4):
        cml.write_image(root / "photos" / f"{number}.png", photo((160, 200), 3, number).float() / 127.5 - 1)
    return root


def run(arguments: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        arguments, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_python_blocks_run_as_one_script(folder):
    # The README's own codec must pass what the contract asks of any codec.
    contract = """
for size in ((1, 1), (7, 5), (300, 2)):
    for channels in (1, 3):
        signal = torch.zeros(channels, *size, dtype=torch.uint8)
        blob = cml.create_codec("coarse").compress(signal)
        assert cml.decompress(blob).shape == signal.shape
        for bad in (b"", b"text", blob[:-1], cml.create_codec("identity").compress(signal)):
            try:
                cml.create_codec("coarse").decompress(bad)
            except cml.BitstreamError:
                continue
            raise AssertionError(bad)
"""
    (folder / "readme.py").write_text("\n".join([*blocks("python"), contract]))
    run([sys.executable, "-W", "error", "readme.py"], folder)


def test_bash_blocks_run(folder):
    for block in blocks("bash"):
        run(["bash", "-euc", block], folder)
    assert cml.read_image(folder / "back.png").shape == (3, 240, 256)


def test_long_commands_parse():
    compare = typer.main.get_command(cli.app).commands["compare"]  # type: ignore[attr-defined]
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    seen = [re.search(r"cml compare([^#]*)", line) for line in lines]
    commands = [match[1] for match in seen if match]
    assert len(commands) >= 3
    for arguments in commands:
        assert compare.make_context("compare", shlex.split(arguments)).params["seeds"] in (None, 3)
    assert any("pip install -e '.[demo]' && cml compare" in line for line in lines)
    assert any("pip install -e '.[dev]' && pytest" in line for line in lines)


def test_the_map_names_every_file():
    for file in [p for d in ("cml", "tasks", "eval") for p in (ROOT / d).rglob("*.py")]:
        if not file.name.startswith("__"):
            assert file.name in README, f"{file} is not on the README's map"


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
