import math

import pandas as pd
import pytest
from cml.eval import ablations
from helpers import ROOT, photo
from PIL import Image

from cml.train.recipes import load_recipe

SIZES = {"codec.decoder", "codec.decoder_width", "codec.decoder_depth"}
ALLOWED = {
    "attention-decoder": SIZES - {"codec.decoder_depth"},
    "closed-form": SIZES | {"iterations"},
    "closed-form-plain": SIZES | {"iterations", "codec.rdo"},
    "factorized-encoder": {"codec.encoder"},
    "frozen-encoder": {"freeze_after"},
    "gaussian": {"codec.quantizer", "steps"},
    "laplace": {"codec.quantizer", "steps"},
    "linear-decoder": SIZES,
    "no-rate": {"rate_weight"},
    "noise": {"rounding"},
    "periodic": {"codec.boundary"},
    "plain-rounding": {"codec.rdo"},
    "std-rate": {"rate", "rate_weight"},
}


def test_each_committed_recipe_changes_one_thing():
    folder = ROOT / "docs" / "results" / "ablations"
    recipes = {path.stem: load_recipe(path).key() for path in folder.glob("*.yaml")}
    base = recipes.pop("base")
    assert len(recipes) > 8
    for name, recipe in recipes.items():
        changed = {key for key in recipe if recipe[key] != base[key]} - {"codec"}
        both = {**base["codec"], **recipe["codec"]}
        changed |= {f"codec.{key}" for key in both if base["codec"].get(key) != recipe["codec"].get(key)}
        assert changed == ALLOWED[name], name


def test_half_the_bits_are_minus_fifty_percent():
    rates = [0.2, 0.4, 0.8, 1.6, 3.2]
    base = pd.DataFrame({"bpp": rates, "psnr": [25.0, 28, 31, 34, 37], "encoder": 1, "decoder": 2})
    runs = {"base": base, "half": base.assign(bpp=base.bpp / 2), "apart": base.assign(psnr=base.psnr - 20)}
    table = ablations.table(runs).set_index("recipe")
    rate, quality = table["BD-rate %"].to_dict(), table["BD-PSNR dB"].to_dict()
    assert rate["half"] == pytest.approx(-50) and quality["half"] == pytest.approx(3)
    assert rate["base"] == pytest.approx(0) and math.isnan(rate["apart"])


def test_the_command_trains_once_and_writes_the_table(tmp_path):
    for number in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(photo((64, 64), 3, number).permute(1, 2, 0).numpy()).save(tmp_path / f"photos/{number}.png")
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    plain = (
        f"data: [{tmp_path / 'photos'}]\ncodec: {{levels: 1, latent_channels: 4}}\nvalidation: 3\ncrop: 16\nbatch: 2\n"
    )
    (recipes / "base.yaml").write_text(plain + "iterations: 0\n")
    (recipes / "trained.yaml").write_text(plain + "iterations: 2\n")
    ablations.main([str(recipes), "-o", str(tmp_path / "runs")])
    written = (tmp_path / "recipes.csv").read_text()
    assert "base" in written and "trained" in written
    (recipes / "trained.yaml").write_text(plain + "iterations: 3\n")
    with pytest.raises(SystemExit, match="another recipe"):
        ablations.main([str(recipes), "-o", str(tmp_path / "runs")])
    (recipes / "trained.yaml").write_text(plain + "iterations: 2\n")
    before = (tmp_path / "runs" / "trained" / "training.pt").stat().st_mtime_ns
    ablations.main([str(recipes), "-o", str(tmp_path / "runs")])
    assert (tmp_path / "runs" / "trained" / "training.pt").stat().st_mtime_ns == before
    (recipes / "base.yaml").unlink()
    with pytest.raises(SystemExit, match="no base"):
        ablations.main([str(recipes), "-o", str(tmp_path / "runs")])
