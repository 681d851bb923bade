"""The README is true: its code runs, its commands parse, its map names every file, its pictures exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main
from helpers import ROOT, code_blocks, newcomer, run_in

import cml
from cml import cli

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = [code for kind, _, code in code_blocks(README) if kind == language]
    assert found
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return newcomer(tmp_path_factory.mktemp("newcomer"))


def test_code_blocks_run(folder, monkeypatch):
    """The commands in their order, and then all Python as one script, which reads what they have made."""
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    for block in blocks("bash"):
        run_in(folder, "bash", "-euc", block)
    assert cml.read_image(folder / "back.png").shape == (3, 240, 256)
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
    run_in(folder, sys.executable, "-W", "error", "readme.py")


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
