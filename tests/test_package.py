"""The house: floors, a cheap import, the registry, the wheel."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import cml
from cml.errors import CmlError
from cml.registry import Registry

FLOORS = ["codecs", "data", "models", "train", "tasks", "eval", "cli", "__main__"]
SERVANTS = {"errors", "files", "registry", "hub"}


def module_floor(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    # An entry point stands above every floor, whatever its package.
    return "__main__" if parts[-1] == "__main__" else parts[0] if parts[0] in ("tasks", "eval") else parts[1]


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "cml" else [f"cml.{alias.name}" for alias in node.names]


def test_imports_only_go_down():
    files = [p for d in ("cml", "tasks", "eval") for p in (ROOT / d).rglob("*.py") if p != ROOT / "cml" / "__init__.py"]
    assert len(files) > 25
    for file in files:
        mine = module_floor(file)
        for name in imports(file):
            if not name.startswith("cml."):
                continue
            theirs = name.split(".")[1]
            if mine in SERVANTS:
                assert theirs in SERVANTS, f"{file.name} serves every floor and imports {name}"
            elif theirs not in SERVANTS:
                assert FLOORS.index(theirs) <= FLOORS.index(mine), f"{file.name} imports {name}: up"


def test_files_are_short():
    for file in [p for d in ("cml", "tasks", "eval", "tests") for p in (ROOT / d).rglob("*.py")]:
        assert len(file.read_text().splitlines()) <= 400, file


def test_import_is_cheap():
    """`import cml` brings in no library at all; using a codec brings in none of the heavy ones."""
    code = (
        "import sys, cml; "
        "heavy = {'timm', 'transformers', 'datasets', 'walloc', 'pandas', 'sklearn', 'matplotlib'}; "
        "early = (heavy | {'torch', 'numpy'}) & set(sys.modules); "
        "assert not early, early; "
        "codec = cml.create_codec('rgb_f8c12'); "
        "assert 'numba' not in sys.modules; "
        "late = heavy & set(sys.modules); "
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    for name in cml.__all__:
        assert getattr(cml, name) is not None
    assert set(cml.__all__) <= set(dir(cml))
    with pytest.raises(AttributeError, match="no attribute"):
        _ = cml.nothing


def test_registry(monkeypatch):
    table = Registry("thing", {"one": "math:pi"})
    assert table.get("one") > 3 and "one" in table and table.names("o*") == ["one"]
    with pytest.raises(CmlError, match="already"):
        table.add("one", "math:e")
    with pytest.raises(CmlError, match="did you mean one"):
        table.get("onne")
    with pytest.raises(CmlError, match="known are one"):
        table.get("xyz")


def test_plug_ins_appear_through_entry_points(tmp_path, monkeypatch):
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cml.gadgets]\nwheel = math:tau\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    table = Registry("gadget", {})
    assert table.names() == ["wheel"] and table.get("wheel") > 6


def test_the_wheel_holds_everything_and_nothing_at_the_top(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            str(_copy(tmp_path)),
        ],
        check=True,
    )
    import zipfile

    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cml"}
    parts = (
        "tasks/classification.py", "eval/harness.py", "eval/page_assets/page.html", "py.typed",
        "weights/rgb_f8c48/model.safetensors",
    )  # fmt: skip
    for part in parts:
        assert f"cml/{part}" in names
    assert any(name.endswith("LICENSE") for name in names)


def _copy(tmp_path: Path) -> Path:
    """A copy of the sources, so that building leaves nothing in the tree."""
    import shutil

    target = tmp_path / "source"
    target.mkdir()
    for name in ("cml", "tasks", "eval"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, target)
    return target
