"""Matrices as yaml files, the file that a run leaves, and the dry run."""

import re

import numpy as np
import pytest
from cml.eval import cells
from cml.eval.dry_run import dry_run
from cml.eval.harness import run_matrix
from cml.eval.matrix import Matrix
from cml.eval.matrix_file import dump_matrix, read_matrix
from cml.eval.results import Result, Run
from typer.testing import CliRunner

from cml import cli
from cml.errors import CmlError, DataError

OPTIONS = "size: 32\nepochs: 1\nviews: [latent, reconstruction]\ncodecs: [gray_f8c16, jpeg: {quality: [5, 20]}]\n"


@pytest.fixture
def file(picture_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "matrix.yaml"
    path.write_text(f"data: folder:{picture_folder}\nout: run\n{OPTIONS}")
    return path


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_every_key_and_every_form_of_a_codec(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(
        "task: imagenet\ndata: folder:photos\nbackbone: timm:resnet18\nseeds: 3\nsize: 64\npatch: 8\nepochs: 2\n"
        "quick: true\nviews: [latent, pixels]\nout: runs/mine\n"
        "codecs:\n"
        "  - resize:factor=4\n"
        "  - jpeg: {quality: [5, 10], subsampling: [4:2:0, 4:4:4]}  # the last option runs fastest\n"
        "  - rgb_f8c12:entropy=ctx: {step: [0.25, 1e-1]}\n"
        "  - webp: {quality: 50}\n    avif: {quality: 60}\n"
    )
    settings = read_matrix(path)
    assert settings.pop("codecs") == (
        "resize:factor=4", "jpeg:quality=5,subsampling=4:2:0", "jpeg:quality=5,subsampling=4:4:4",
        "jpeg:quality=10,subsampling=4:2:0", "jpeg:quality=10,subsampling=4:4:4", "rgb_f8c12:entropy=ctx,step=0.25",
        "rgb_f8c12:entropy=ctx,step=1e-1", "webp:quality=50", "avif:quality=60",
    )  # fmt: skip
    assert settings == {
        "task": "imagenet", "data": "folder:photos", "backbone": "timm:resnet18", "seeds": 3, "size": 64, "patch": 8,
        "epochs": 2, "quick": True, "views": ("latent", "pixels"), "out": "runs/mine",
    }  # fmt: skip


def test_what_a_task_does_not_take_is_not_written(tmp_path):
    """A model that comes trained has neither size nor epochs."""
    path = tmp_path / "m.yaml"
    path.write_text(
        dump_matrix({"task": "imagenet", "codecs": ["jpeg", "a:b=4:2:0"], "size": None, "seeds": 1}, tmp_path)
    )
    assert read_matrix(path) == {"task": "imagenet", "codecs": ("jpeg", "a:b=4:2:0"), "seeds": 1, "out": str(tmp_path)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("codec: [jpeg]", "Unknown key 'codec': did you mean codecs"),
        ("seeds: three", "seeds must be a whole number, not 'three'"),
        ("size:", "size must be a whole number, not nothing"),
        ("epochs: 1.5", "epochs must be a whole number"),
        ("quick: yes", "quick must be true or false, not 'yes'"),
        ("views: latent", "views must be a list of words, not 'latent'"),
        ("task: [a]", "task must be a word"),
        ("codecs: jpeg webp", "codecs must be a list of operating points"),
        ("codecs: [[jpeg]]", "is none"),
        ("codecs:\n  - jpeg: quality=5", "the options of jpeg must be a mapping such as"),
        ("codecs:\n  - jpeg: {quality: []}", "no list of values"),
        ("codecs:\n  - jpeg: {quality: {low: 5}}", "no list of values"),
        ("- task", "is no matrix"),
        ("", "is no matrix"),
        ("task: [", "is not yaml"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path, text, sentence):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(CmlError, match=re.escape(str(path))) as caught:
        read_matrix(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.yaml"):
        read_matrix(tmp_path / "none.yaml")


def test_the_file_of_a_run_makes_it_again(file, tmp_path, monkeypatch):
    assert "jpeg:quality=20" in invoke(file, "--seeds", 2)
    assert len(Run("run").results()) == 2 * 6
    settings = read_matrix("run/matrix.yaml")
    assert settings["seeds"] == 2 and settings["out"] == "run" and settings["backbone"] == "cml:small"
    monkeypatch.setattr(cells, "_run_condition", lambda *a: pytest.fail("a finished cell ran again"))
    before = (tmp_path / "run" / "matrix.yaml").read_text()
    invoke("run/matrix.yaml")
    assert (tmp_path / "run" / "matrix.yaml").read_text() == before
    text = invoke("run/matrix.yaml", "--dry-run")
    assert "All 12 cells are done" in text


def test_the_file_is_there_before_the_first_cell(file, tmp_path, monkeypatch):
    def look(*arguments):
        raise KeyboardInterrupt(str((tmp_path / "run" / "matrix.yaml").exists()))

    monkeypatch.setattr(cells, "_run_condition", look)
    settings = read_matrix(file)
    with pytest.raises(KeyboardInterrupt, match="True"):
        run_matrix(Matrix(**{key: value for key, value in settings.items() if key != "out"}), settings["out"])


def test_options_given_win_over_the_file(file):
    text = invoke(file, "--codecs", "jpeg:quality=33", "--views", "reconstruction", "--seeds", 5, "--dry-run")
    assert "jpeg:quality=33" in text and "gray_f8c16" not in text and "15 cells, 0 done before, 15 to run" in text


def test_a_dry_run_writes_nothing_and_guesses_every_condition(file, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    text = invoke(file, "--dry-run")
    assert "6 cells, 0 done before, 6 to run: roughly" in text and "from a few calls" in text
    assert text.count("~") == 6 + 1 and sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_takes_the_time_of_cells_like_those_to_run(file, tmp_path):
    settings = read_matrix(file)
    comparison = Matrix(**{key: value for key, value in settings.items() if key != "out"}, seeds=3).resolve()
    run = Run(tmp_path / "run")
    for condition, seed, seconds in zip(comparison.conditions, (0, 0, 1, 0, 0, 0), (1, 2, 3, 5, 7, 9), strict=True):
        context = cells.context_of(comparison.task, condition, seed, comparison.patch)
        run.append(
            Result(
                key=cells.cell_key(context), view=condition.view, codec=condition.codec.spec.name, seed=seed,
                status="ok", seconds=seconds, context=context,
            )
        )  # fmt: skip
    plans = dry_run(comparison, run)
    # The models of `pixels` and `bigpatch` are missing, so these cells run again.
    assert [(p.done, p.todo) for p in plans] == [(0, 3), (0, 3), (1, 2), (1, 2), (1, 2), (1, 2)]
    assert [p.seconds for p in plans] == [3, 6, 6, 10, 14, 18] and all(p.measured for p in plans)
    (tmp_path / "run" / "results.jsonl").unlink()
    last = comparison.conditions[-1]
    context = cells.context_of(comparison.task, last, 0, comparison.patch)
    for other, seconds in (({}, 4.0), ({"size": [64, 64]}, 1000.0)):
        key = cells.cell_key(context | other)
        run.append(Result(key, last.view, "another", 0, "ok", seconds=seconds, context=context | other))
    guessed = dry_run(comparison, Run(tmp_path / "run"))
    # Cells of the same view stand for those of a codec without any; cells of pictures of another size do not.
    assert [p.measured for p in guessed] == [False] * 3 + [True] * 3
    assert [p.seconds for p in guessed[3:]] == [3 * 4, 3 * 4, 2 * 4]
    assert all(np.isfinite(p.seconds) and p.seconds > 0 for p in guessed)


def test_a_codec_that_will_fail_is_shown_before_it_does(file, monkeypatch):
    from cml.codecs.conventional import Jpeg

    def broken(self, blob):
        raise RuntimeError("the library fell over")

    monkeypatch.setattr(Jpeg, "_decompress", broken)
    assert "reconstruction jpeg:quality=20 will fail: the library fell over" in invoke(file, "--dry-run")
