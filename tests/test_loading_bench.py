import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval import loading_bench
from helpers import photo
from PIL import Image
from typer.testing import CliRunner

import cml
from cml.data.loading import latent_loader
from cml.errors import CmlError

POINT = "rgb_f8c12:entropy=zstd"


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Two classes of colour JPEGs of 64 pixels, but one that is larger."""
    root = tmp_path_factory.mktemp("jpegs")
    for label, name in enumerate("ab"):
        (root / name).mkdir()
        for number in range(12):
            size = (80, 96) if number == label == 0 else (64, 64)
            picture = Image.fromarray(photo(size, 3, 12 * label + number).permute(1, 2, 0).numpy())
            picture.save(root / name / f"{number}.jpg")
    return root


def test_the_benchmark_from_end_to_end(jpegs, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(loading_bench.main)
    arguments = [f"folder:{jpegs}", "-o", str(tmp_path / "out"), "-c", POINT, "--workers", "1"]
    result = CliRunner().invoke(app, [*arguments, "--passes", "2", "--epochs", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_csv(tmp_path / "out.csv")
    parts = {part: rows.set_index("input") for part, rows in table.groupby(["measure", "workers"])}
    latents = [f"latents {POINT}, .cml files", f"latents {POINT}, shard"]
    pixels = ["decode, resize", "draft, resize", "decode"]
    for workers in (0, 1):
        assert parts["images/s", workers].index.tolist() == pixels + latents
    both = [x + end for x in ("decode, resize", "decode", latents[1]) for end in ("", ", from memory")]
    assert len(parts) == 3 and set(parts["epochs/s", 1].index) == {*both, "draft, resize"}
    assert (table[["bytes", "low", "over_draft", "over_decode"]].to_numpy() > 0).all()
    low, median, high = table[["low", "median", "high"]].to_numpy().T
    assert (low <= median).all() and (median <= high).all()
    for rows in parts.values():
        assert rows.loc["decode, resize", "over_resize"] == rows.loc["decode", "over_decode"] == 1
    text = (tmp_path / "out.md").read_text()
    assert "libjpeg_turbo" in text and "## Loading, 1 worker\n" in text and text.count(latents[1]) == 4
    assert text.strip() == result.stdout.strip()


def test_all_ways_load_the_same_pictures(jpegs, tmp_path):
    """What is compared must hold the same data: whole pixels exactly, the others a close low-pass of them."""
    from cml.tasks.classification import Classification

    task = Classification(f"folder:{jpegs}")
    assert task.size == (64, 64)
    found = loading_bench.sources(task, [POINT], tmp_path)
    batches = {s.name: next(iter(latent_loader(s.dataset, 18, workers=0))) for s in found}
    labels = task.labels("train")
    assert all(torch.equal(batch.labels, labels) for batch in batches.values())
    resized, draft, whole, *latents = (batch.to_float("cpu") for batch in batches.values())
    signals = torch.stack([task.signal("train", i) for i in range(18)]).float() / 127.5 - 1
    fits = [i for i in range(18) if task.data.train.image(i).shape[1:] == (64, 64)]
    assert len(fits) >= 17
    assert torch.allclose(whole[fits], 2 * signals[fits], atol=1e-5)
    small = torch.nn.functional.avg_pool2d(2 * signals, 4)
    assert (resized - small).abs().mean() < 0.08 and (draft - small).abs().mean() < 0.08
    codec = cml.create_codec(POINT)
    expected = torch.stack([codec.encode(task.signal("train", i)).to_float() for i in range(18)])
    assert torch.equal(latents[0], expected) and torch.equal(latents[1], expected)
    sizes = {source.name: source.size for source in found}
    packed = [len(codec.compress(task.signal("train", i))) for i in range(18)]
    assert sizes[f"latents {POINT}, shard"] == pytest.approx(np.mean(packed))


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_an_epoch_of_training_sees_each_sample_once(jpegs, tmp_path, kind):
    from cml.tasks.classification import Classification

    task, device = Classification(f"folder:{jpegs}"), torch.device("cpu")
    for source in loading_bench.sources(task, [POINT], tmp_path):
        ordered = next(iter(latent_loader(source.dataset, 18))).to_float("cpu")
        if kind == "disk":
            batches = loading_bench.from_disk(source, 0, 6, device)
        else:
            batches = loading_bench.from_memory(source, 18, 6, device)
        x = torch.cat([x for x, _ in batches(0)])
        assert x.shape[1:] == (source.stem.channels, *source.stem.grid)
        places = [int((ordered - row).abs().amax((1, 2, 3)).argmin()) for row in x]
        assert sorted(places) == list(range(18)) and places != sorted(places)
        assert torch.allclose(x, ordered[places], atol=1e-5)
        assert torch.equal(torch.cat([labels for _, labels in batches(1)]).bincount(), task.labels("train").bincount())


def test_what_cannot_be_measured_gets_a_sentence(jpegs):
    with pytest.raises(CmlError, match="no latents"):
        loading_bench.loading_table(f"folder:{jpegs}", ["jpeg"])
    with pytest.raises(CmlError, match="or more"):
        loading_bench.loading_table(f"folder:{jpegs}", [POINT], passes=0)
