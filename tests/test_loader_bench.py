import pandas as pd
import pytest
import typer
from cml.eval import loader_bench
from cml.tasks.classification import Classification
from helpers import photo
from PIL import Image
from typer.testing import CliRunner

from cml.data.latent_dataset import LatentDataset
from cml.errors import CmlError

POINT = "rgb_f8c12:entropy=zstd"
INPUTS = ["latents", "latents, streamed", "decode", "decode, resize", "draft, resize"]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Two classes of colour JPEGs of 64 pixels: 18 to train on, 6 to test."""
    root = tmp_path_factory.mktemp("jpegs")
    for label, name in enumerate("ab"):
        (root / name).mkdir()
        for number in range(12):
            picture = Image.fromarray(photo((64, 64), 3, 12 * label + number).permute(1, 2, 0).numpy())
            picture.save(root / name / f"{number}.jpg")
    return root


def test_the_benchmark_from_end_to_end(jpegs, tmp_path):
    app = typer.Typer()
    app.command()(loader_bench.main)
    arguments = [f"folder:{jpegs}", "-o", str(tmp_path / "out"), "-c", POINT, "--workers", "1", "--workers", "0"]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "2"], catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["input"].tolist() == INPUTS * 2 and table["workers"].tolist() == [1] * 5 + [0] * 5
    assert (table[["bytes", "low", "slower_low"]].to_numpy() > 0).all()
    low, median, high = table[["low", "median", "high"]].to_numpy().T
    assert (low <= median).all() and (median <= high).all()
    rows = table.set_index("input")
    assert (rows.loc["latents", ["slower", "larger"]] == 1).all(axis=None)
    files = sum(path.stat().st_size for path in Classification(f"folder:{jpegs}").data.train.paths)
    assert (rows.loc["decode", "bytes"] == files).all()
    assert rows.loc["decode", "larger"].tolist() == pytest.approx([files / rows["bytes"].iloc[0]] * 2, rel=1e-2)
    text = (tmp_path / "out.md").read_text()
    assert "18 pictures of 64x64" in text and "4x4 tokens" in text and "## 1 loading worker\n" in text
    assert text.count("| JPEG, whole pictures |") == 2 and text.strip() == result.stdout.strip()


def test_latents_are_those_of_the_pictures_that_the_files_give(jpegs, tmp_path):
    task = Classification(f"folder:{jpegs}")
    found, encoding = loader_bench._sources(task, f"folder:{jpegs}", POINT, tmp_path)
    assert [source.name for source in found] == INPUTS and encoding > 0
    latents, pictures = found[0].dataset, found[2].dataset
    assert isinstance(latents, LatentDataset) and len(latents) == task.count("train") == 18
    paths, labels = task.data.train.paths, task.labels("train").tolist()
    expected = {f"{path.parent.name}/{path.name}": label for path, label in zip(paths, labels, strict=True)}
    assert dict(zip(latents.ids, latents.labels.tolist(), strict=True)) == expected
    # As many tokens for all, and as many values where that is said.
    tokens = {tuple(n // source.stem.patch for n in source.stem.grid) for source in found}
    assert tokens == {(4, 4)}
    values = {source.name: source.stem.channels * source.stem.grid[0] * source.stem.grid[1] for source in found}
    assert values["latents"] == values["decode, resize"] == values["draft, resize"] == values["decode"] / 16
    assert found[0].size * 18 == sum(path.stat().st_size for path in tmp_path.glob("train-*.parquet"))
    assert pictures.__getitems__([0]).to_float("cpu").shape == (1, 3, 64, 64)  # pyright: ignore[reportAttributeAccessIssue]


def test_what_cannot_be_measured_gets_a_sentence(jpegs, picture_folder):
    with pytest.raises(CmlError, match="or more"):
        loader_bench.epochs_table(f"folder:{jpegs}", POINT, epochs=0)
    with pytest.raises(CmlError, match="is none"):
        loader_bench.epochs_table(f"folder:{picture_folder}", POINT)
    with pytest.raises(CmlError, match="no latents"):
        loader_bench.epochs_table(f"folder:{jpegs}", "jpeg")
