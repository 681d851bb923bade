import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cml
from cml import hub
from cml.codecs.base import Codec
from cml.codecs.light import LightDecoder
from cml.codecs.neural import WaveletCodec
from cml.data.crops import Crops
from cml.errors import CmlError, DataError
from cml.train.codec import CHECKPOINT, starting_codec, train_codec
from cml.train.material import read_signals
from cml.train.recipes import CodecRecipe, dump_recipe, load_recipe
from cml.train.validation import picture, validate

RECIPE = CodecRecipe(
    data=("unused",),
    codec={"levels": 2, "latent_channels": 6, "decoder": "light", "decoder_width": 16, "decoder_depth": 1},
    steps=(0.2, 0.4),
    crop=32,
    batch=4,
    scales=(1.0,),
    iterations=60,
    warmup=10,
    every=20,
    lr=3e-3,
    ema=0.9,
    name="toy",
)


def shapes(seed: int) -> torch.Tensor:
    """Half planes and stripes: edges, which a linear decoder of few channels blurs and a network can sharpen."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:80]
    plane = np.full((96, 80), 60.0)
    for _ in range(6):
        angle, offset, pitch = rng.uniform(0, np.pi), rng.uniform(0, 60), rng.uniform(20, 60)
        plane += 30 * (np.sin((x * np.cos(angle) + y * np.sin(angle) + offset) * 2 * np.pi / pitch) > 0)
    return torch.from_numpy(np.clip(np.stack([plane, plane * 0.8, 255 - plane]), 0, 255).astype(np.uint8))


SIGNALS = [shapes(seed) for seed in range(4)]


def weights(codec: WaveletCodec) -> torch.Tensor:
    return torch.cat([value.flatten() for value in codec.state_dict().values()])


# crops


def test_crops_are_a_function_of_seed_iteration_and_index():
    crops = Crops(SIGNALS, 32, (1.0, 0.5), seed=3)
    batch = crops.batch(7, range(4))
    assert batch.shape == (4, 3, 32, 32) and batch.dtype == torch.float32 and batch.abs().max() <= 1
    assert torch.equal(batch[2:], Crops(SIGNALS, 32, (1.0, 0.5), seed=3).batch(7, range(2, 4)))
    for other in (crops.batch(8, range(4)), Crops(SIGNALS, 32, (1.0, 0.5), seed=4).batch(7, range(4))):
        assert not torch.equal(batch, other)


@pytest.mark.parametrize("size", [(300,), (12, 40), (9, 10, 11)])
def test_crops_in_every_dimension_and_of_small_signals(size):
    x = torch.rand(2, *size) * 2 - 1
    assert Crops([x], 16).batch(1, range(3)).shape == (3, 2, *[16] * len(size))


def test_no_signals():
    with pytest.raises(DataError, match="nothing to train on"):
        Crops([], 16)


# recipes


def test_every_bundled_recipe_is_read_and_names_what_it_made():
    for name in hub.bundled_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        codec = cml.create_codec(name)
        assert isinstance(codec, WaveletCodec)
        assert codec.config.levels == recipe.codec["levels"]
        assert codec.config.latent_channels == recipe.codec["latent_channels"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nspeed: 9", "unknown key 'speed'"),
        ("data: [a]\ncodec: {levels: 2}", "levels and latent_channels"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nsteps: [2, 1]", "smaller first"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nrounding: up", "hard or noise"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nlr: fast", "lr must be a number"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nbatch: 4.0", "batch must be a whole number"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nclosed_form: maybe", "true or false"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nscales: [0]", "scales must be positive"),
        ("data: [a]\ncodec: {levels: 2, latent_channels: 3}\nsteps: [1, a]", "steps must be a list"),
        ("data: [null]\ncodec: {levels: 2, latent_channels: 3}", "data must be a list"),
        ("just words", "no recipe"),
        ("a: [", "not yaml"),
    ],
)
def test_wrong_recipes_get_a_sentence(text, sentence, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(CmlError, match=sentence):
        load_recipe(tmp_path / "r.yaml")


def test_a_dumped_recipe_is_the_same_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(dump_recipe(replace(RECIPE, lr=1e-5)))
    assert load_recipe(tmp_path / "r.yaml") == replace(RECIPE, lr=1e-5)


@pytest.mark.parametrize(
    ("codec", "sentence"),
    [
        ({"levels": "2"}, "levels is a whole number of 0"),
        ({"decoder": "light", "decoder_width": 0}, "decoder_width of 1"),
        ({"decoder": "attention"}, "decoder_depth of 1"), ({"bits": 1}, "2 to 16 bits"),
        ({"speed": 1}, "codec is wrong"),
        ({"encoder": "deep"}, "Unknown encoder"),
    ],
)  # fmt: skip
def test_wrong_architectures_get_a_sentence(codec, sentence):
    with pytest.raises(CmlError, match=sentence):
        starting_codec(replace(RECIPE, codec={"levels": 2, "latent_channels": 6} | codec), SIGNALS)


# training


def mse(codec: WaveletCodec, step: float) -> float:
    return mse_of(codec.at(step))


def mse_of(at: Codec) -> float:
    errors = [(at.decode(at.encode(x)) - (x.float() / 127.5 - 1)).square().mean() for x in SIGNALS]
    return float(torch.stack(errors).mean())


def test_training_starts_from_the_closed_form_and_betters_it(tmp_path):
    recipe = replace(RECIPE, iterations=120, freeze_after=0.5, rate_weight=0.0)
    start = starting_codec(recipe, SIGNALS)
    linear = start.decoder.linear if isinstance(start.decoder, LightDecoder) else None
    assert linear is not None
    z = torch.randn(1, 6, 4, 4)
    step = torch.tensor([0.3])
    assert torch.allclose(start.decoder(z, step), linear(z, step))
    seen = []
    trained = train_codec(recipe, SIGNALS, tmp_path, on_progress=seen.append)
    assert seen[-1].iteration == 120 and seen[-1].loss < seen[0].loss
    assert mse(trained, 0.4) < 0.96 * mse(start, 0.4)
    assert mse(trained, 0.2) < mse(start, 0.2)
    assert mse(trained, 0.02) < mse(trained, 0.2)  # far finer than it was trained for
    std = trained.config.latent_std
    assert list(std) == sorted(std, reverse=True)
    assert cml.create_codec(str(tmp_path)).spec.codec_id == trained.codec_id


@pytest.mark.parametrize("rounding", ["noise", "hard"])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(rounding, tmp_path):
    recipe = replace(RECIPE, rounding=rounding)
    whole = train_codec(recipe, SIGNALS, tmp_path / "whole")

    class Interruption(Exception):
        pass

    def interrupt(progress):
        if progress.iteration == 40 and (tmp_path / "cut" / CHECKPOINT).exists():
            raise Interruption

    with pytest.raises(Interruption):
        train_codec(recipe, SIGNALS, tmp_path / "cut", on_progress=interrupt)
    cml.create_codec(str(tmp_path / "cut")).compress(SIGNALS[0])
    resumed = train_codec(recipe, SIGNALS, tmp_path / "cut")
    assert torch.equal(weights(whole), weights(resumed))
    for other in ((replace(recipe, seed=1), SIGNALS), (recipe, SIGNALS[1:])):
        with pytest.raises(CmlError, match="another recipe or of other data"):
            train_codec(*other, tmp_path / "cut")
    (tmp_path / "cut" / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(CmlError, match="remove it"):
        train_codec(recipe, SIGNALS, tmp_path / "cut")


def test_a_frozen_encoder_stays_the_closed_form(tmp_path):
    recipe = replace(RECIPE, freeze_after=0.0, iterations=20)
    start, trained = starting_codec(recipe, SIGNALS), train_codec(recipe, SIGNALS, tmp_path)
    closed, kept = (dict(codec.encoder.named_parameters()) for codec in (start, trained))
    order = torch.tensor([int((closed["weight"] - row).square().sum(1).argmin()) for row in kept["weight"]])
    assert torch.equal(closed["weight"][order], kept["weight"]) and sorted(order.tolist()) == list(range(6))


@pytest.mark.parametrize(
    "codec",
    [
        {"levels": 3, "latent_channels": 8, "encoder": "factorized", "quantizer": "laplace", "decoder": "attention"},
        {"levels": 3, "latent_channels": 8, "quantizer": "gaussian", "decoder": "light", "decoder_width": 16},
        {"levels": 3, "latent_channels": 8, "decoder": "residual", "decoder_width": 32},
    ],
)
def test_every_architecture_trains(codec, tmp_path):
    plan = replace(RECIPE, codec=codec | {"encoder_depth": 1, "decoder_depth": 1}, iterations=4, every=4, rate="std")
    trained = train_codec(replace(plan, steps=(0.5, 2.0)), SIGNALS, tmp_path)
    loaded = cml.create_codec(str(tmp_path), step=1.0)
    blob = loaded.compress(SIGNALS[0])
    assert torch.equal(cml.decompress(blob), trained.at(1.0).decompress(blob))


def test_no_iterations_leave_the_closed_form(tmp_path):
    train_codec(replace(RECIPE, iterations=0), SIGNALS, tmp_path / "start")
    codec = cml.create_codec(str(tmp_path / "start"), step=0.3)
    assert mse_of(codec) == pytest.approx(mse(starting_codec(RECIPE, SIGNALS), 0.3), rel=1e-3)


def test_companders_start_from_the_closed_form_too():
    for quantizer in ("gaussian", "laplace"):
        codec = starting_codec(replace(RECIPE, codec={**RECIPE.codec, "quantizer": quantizer}), SIGNALS)
        plain = starting_codec(RECIPE, SIGNALS)
        x = SIGNALS[0][None].float() / 127.5 - 1
        for made in (codec, plain):
            made.requires_grad_(False)
        difference = codec.synthesis(codec.analysis(x), (96, 80)) - plain.synthesis(plain.analysis(x), (96, 80))
        assert difference.abs().max() < 1e-2


def test_odd_pictures_are_trained_on_all_the_same(tmp_path):
    flat = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
    codec = train_codec(replace(RECIPE, iterations=2, scales=(1.0, 0.5)), [*SIGNALS, flat, pixel], tmp_path)
    assert validate(codec, [flat, pixel], (0.01, 0.1))[0].psnr > 30
    deep = torch.full((1, 40, 40), 65535, dtype=torch.uint16)
    assert torch.allclose(Crops([deep], 16, (1.0, 0.5)).batch(0, range(4)), torch.ones(4, 1, 16, 16))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(CmlError, match="smaller lr"):
        train_codec(replace(RECIPE, lr=1e30, linear_lr=1e30, clip=1e30, warmup=1), SIGNALS, tmp_path)


def test_validation_counts_real_bytes():
    codec = starting_codec(RECIPE, SIGNALS)
    points = validate(codec, SIGNALS[:1], (0.1, 0.4))
    assert [p.step for p in points] == pytest.approx([0.4, 0.2, 0.1])
    at = codec.at(0.1)
    assert points[-1].bpp == 8 * len(at.compress(SIGNALS[0])) / (96 * 80)
    assert points[0].psnr < points[1].psnr < points[2].psnr
    assert picture(SIGNALS[0], codec, codec, (0.1, 0.4))[:4] == b"\x89PNG"


# volumes


def test_volumes_are_trained_on_in_flat_crops(tmp_path):
    """Signals of three axes, with levels and crops of their own along the first, brought to a peak of 1 each."""
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(4):
        waves = np.sin(np.cumsum(rng.normal(size=(9, 40, 36)), 2) / 3) * 500 + number
        np.save(tmp_path / "scans" / f"{number}.npy", waves.astype(np.float32))
    codec = {"ndim": 3, "channels": 1, "levels": (1, 2, 2), "latent_channels": 5, "level": "peak",
             "decoder": "light", "decoder_width": 8, "decoder_depth": 1}  # fmt: skip
    recipe = CodecRecipe(
        data=(str(tmp_path / "scans"),), codec=codec, crop=16, depth=8, batch=2, iterations=4, every=4, validation=4,
        scales=(1.0,),
    )  # fmt: skip
    signals, held_out = read_signals(recipe)
    assert len(signals) == 3 and len(held_out) == 1
    assert all(float(x.abs().max()) == pytest.approx(1) for x in (*signals, *held_out))
    trained = train_codec(recipe, signals, tmp_path / "mine")
    assert trained.config.cell == (2, 4, 4) and trained.spec.cell == (2, 4, 4)
    again = cml.create_codec(str(tmp_path / "mine"))
    x = torch.from_numpy(np.load(tmp_path / "scans" / "3.npy"))[None]
    blob = again.compress(x)
    assert torch.equal(again.encode(x).symbols, trained.encode(x).symbols)
    assert again.encode(x).symbols.shape == (5, 5, 10, 9)
    error = (again.decompress(blob) - x).square().mean()
    assert error < 0.9 * (x - x.mean()).square().mean()
    assert picture(held_out[0], trained, trained, (0.1, 0.4))[:4] == b"\x89PNG"


def test_the_bands_of_a_cube_are_channels_of_a_picture(tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    savemat(tmp_path / "jasperRidge2_R198.mat", {"cube": rng.random((20, 16, 7)).astype(np.float32)})
    codec = {"channels": 7, "levels": 1, "latent_channels": 5}
    recipe = CodecRecipe(data=(f"jasper:{tmp_path}",), codec=codec, crop=8, batch=2, iterations=2, validation=0)
    signals, held_out = read_signals(recipe)
    assert [x.shape for x in signals] == [(7, 14, 16)] and not held_out  # the lower rows are test
    with pytest.raises(DataError, match="has 7 bands"):
        read_signals(replace(recipe, codec=codec | {"channels": 3}))


# the command


def launch(folder: Path, *options: str, **kwargs) -> "subprocess.Popen[str]":
    command = [sys.executable, *options, "train", "codec", "toy.yaml", "-o", "mine", "--threads", "1"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )  # fmt: skip


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, x in enumerate(SIGNALS):
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "toy.yaml").write_text(
        "data: [photos]\ncodec: {levels: 2, latent_channels: 6, decoder: light, decoder_width: 8, decoder_depth: 1}\n"
        "crop: 32\nbatch: 4\niterations: 120\nevery: 20\nvalidation: 4\n"
    )
    return tmp_path


def test_the_command_resumes_after_sigkill(toy):
    process = launch(toy, "-m", "cml")
    deadline = time.monotonic() + 120
    while not (toy / "mine" / CHECKPOINT).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out, err = launch(toy, "-m", "cml").communicate()
    assert "120/120" in out and "20/120  held" not in out.replace("120/120", ""), out + err
    assert {"config.json", "model.safetensors", "README.md", "recipe.yaml", "validation.png"} <= {
        path.name for path in (toy / "mine").iterdir()
    }
    codec = cml.create_codec(str(toy / "mine"), step=0.3)
    assert torch.isfinite(codec.decompress(codec.compress(SIGNALS[0]))).all()


# a codec to begin with


def test_training_goes_on_from_a_codec(tmp_path):
    """A frozen encoder keeps its bytes while the decoder gains."""
    first = train_codec(RECIPE, SIGNALS, tmp_path / "first")
    again = replace(RECIPE, start=str(tmp_path / "first"), freeze_after=0.0)
    begun = starting_codec(replace(again, codec={**RECIPE.codec, "rdo": 0.5}), SIGNALS)
    assert torch.equal(weights(begun), weights(first)) and begun.config.rdo == 0.5
    second = train_codec(again, SIGNALS, tmp_path / "second")
    assert torch.equal(second.encoder.weight, first.encoder.weight)  # pyright: ignore
    x = SIGNALS[0]
    errors = [float((codec.decompress(codec.compress(x)) - x / 127.5 + 1).square().mean()) for codec in (first, second)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("start", "codec", "words"),
    [
        ("rgb_f8c12", {"levels": 3, "latent_channels": 24}, "latent_channels is not that"),
        ("gray_f8c4", {"levels": 3, "latent_channels": 4}, "other axes or channels"),
        ("jpeg", {"levels": 3, "latent_channels": 4}, "no wavelet codec"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_sentence(start, codec, words):
    with pytest.raises(CmlError, match=words):
        starting_codec(replace(RECIPE, start=start, codec=codec), SIGNALS)
