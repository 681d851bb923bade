"""The pages of the site are true: they build without a warning, name every public thing, and their code runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from helpers import ROOT, code_blocks, newcomer, run_in

import cml
from cml import cli

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("howto/*.md")])
RUNNING = [page for page in PAGES if any(kind in ("python", "bash") for kind, _, _ in code_blocks(page.read_text()))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python", "mkdocs_jupyter"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return out


def test_every_public_name_is_on_the_api_page(site):
    page = (site / "api" / "index.html").read_text()
    for name in cml.__all__:
        assert name == "__version__" or f'id="cml.{name}"' in page, name


@pytest.mark.parametrize(
    ("name", "heading", "described"),
    [
        ("cml.create_codec", "Parameters", "options"),
        ("cml.compare", "Parameters", "seeds"),  # in eval/, where mkdocstrings does not look by itself
        ("cml.tasks.base.Score", "Attributes", "pictures"),  # in tasks/
    ],
)
def test_arguments_are_described_on_the_api_page(site, name, heading, described):
    page = (site / "api" / "index.html").read_text()
    section = page.partition(f'<h3 id="{name}"')[2].partition("<h3 ")[0]
    assert heading in section and f">{described}<" in section.partition(heading)[2]


def test_every_command_is_on_the_page_of_the_commands(site):
    page = (site / "commands" / "index.html").read_text()
    for path, command in commands("cml", typer.main.get_command(cli.app)):
        assert f">{path}<" in page, path
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in page, (path, parameter.opts)


def commands(path: str, command: Any):
    inside = getattr(command, "commands", None)
    if inside is None:
        yield path, command
    for name, each in (inside or {}).items():
        yield from commands(f"{path} {name}", each)


def test_every_page_and_result_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = set(leaves(settings["nav"]))
    results = [*DOCS.glob("results/*.md"), *DOCS.glob("results/*/report.md")]
    for page in [*PAGES, *results, *DOCS.glob("notebooks/*.ipynb")]:
        assert page.relative_to(DOCS).as_posix() in listed, f"add {page.name} to nav in mkdocs.yml"


def leaves(nav: Any):
    for entry in nav:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from leaves(target) if isinstance(target, list) else [target]


def test_pages_load_nothing_from_the_network(site):
    pages = [page for page in site.rglob("index.html")]
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="(https?:[^"]*)"', page.read_text())
        assert not loaded, (page, loaded)


def test_reports_of_runs_are_on_the_site(site):
    for report in DOCS.glob("results/*/report.html"):
        assert (site / report.relative_to(DOCS)).read_bytes() == report.read_bytes()


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_code_runs_as_one_script(page, tmp_path, monkeypatch):
    """From top to bottom: python as it is, bash as it is; a block with a title is a file of that name."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run beside it
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    script = ["import subprocess as _subprocess", "from pathlib import Path as _Path"]
    for language, title, code in code_blocks(page.read_text()):
        if title:
            script.append(f"_Path({title!r}).write_text({code!r})")
        elif language == "python":
            script.append(code)
        elif language == "bash":
            script.append(f"_subprocess.run(['bash', '-euc', {code!r}], check=True)")
    (newcomer(tmp_path) / "page.py").write_text("\n".join(script))
    run_in(tmp_path, sys.executable, "-W", "error", "page.py")


def test_commands_that_take_long_parse():
    root, seen = typer.main.get_command(cli.app), []
    for page in PAGES:
        blocks = [code for language, _, code in code_blocks(page.read_text()) if language == "sh"]
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cml"]:
                parse(root, words[1:])
                seen.append(line)
    assert len(seen) > 8


def parse(command: Any, words: list[str]) -> None:
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)
