"""A run as `compare` leaves it, made up on the spot: no codec runs and nothing is trained."""

import io
import json
from pathlib import Path

import numpy as np
from cml.eval.results import Result, Run, cell_key
from helpers import photo
from PIL import Image

ITEMS = 200
RATES = {"jpeg": (0.2, 0.5, 1.1), "webp": (0.12, 0.3, 0.9), "rgb_f8c12": (0.1, 0.25, 0.6)}
OPTION = {"jpeg": "quality", "webp": "quality", "rgb_f8c12": "step", "resample": "factor", "mono_f256c16": "step"}
SOUND_RATES = {"resample": (4.0, 2.0, 1.0), "mono_f256c16": (0.1, 0.25, 0.6)}
SAMPLING_RATE, SAMPLES = 8000, 6000


def make_run(
    folder: Path, rates=RATES, seeds: int = 2, score: str = "accuracy", frozen: bool = False, sound: bool = False
) -> Run:
    """Curves that rise with the rate; every codec in `reconstruction`, those named rgb_ or mono_ in `latent` too."""
    run = Run(folder)
    ceiling, original, raw = ("waveform", "identity:ndim=1", 16.0) if sound else ("pixels", "identity", 24.0)
    about_sound = {"size": [SAMPLES], "sampling_rate": SAMPLING_RATE} if sound else {"size": [64, 64]}
    cells = [(ceiling, original, raw, 0.85)] + ([] if frozen else [("bigpatch", original, raw, 0.8)])
    for place, (name, points) in enumerate(rates.items()):
        for number, bpp in enumerate(points):
            codec = f"{name}:{OPTION.get(name, 'quality')}={number + 1}"
            level = 0.8 - 0.25 * np.exp(-6 * bpp) - 0.01 * place
            cells.append(("reconstruction", codec, bpp, level))
            if name.startswith(("rgb_", "mono_")) and not frozen:
                cells.append(("latent", codec, bpp, level + 0.03))
    keys = []
    for place, (view, codec, bpp, level) in enumerate(cells):
        for seed in range(seeds):
            # the same items are hard for everybody, as in a real run
            hard = np.random.default_rng(seed).random(ITEMS)
            correct = hard < level + 0.02 * np.random.default_rng([place, seed]).normal()
            context = {"task": "classification", "view": view, "codec": codec, "seed": seed, **about_sound,
                       "backbone": "cml:small", "versions": {"cml": "0.1.0", "torch": "2.11.0"}}  # fmt: skip
            key = cell_key(context)
            keys.append(key)
            metrics = {"agreement": 0.9, score: float(correct.mean()), "macro_f1": float(correct.mean()) - 0.02}
            result = Result(
                key=key, view=view, codec=codec, seed=seed, status="ok", metrics=metrics, bpp=bpp,
                dimensions=768 if view == "latent" else 12288, tokens=16, stem_macs=10**6, backbone_macs=10**7,
                parameters=10**5, encode_mps=20 / bpp, load_ips=900 / bpp, train_ips=400,
                psnr=25 + 6 * np.log2(bpp + 1) if view == "reconstruction" else None, chance=0.1,
                settings={"quality": place}, context=context, environment={"python": "3.11", "threads": 1},
            )  # fmt: skip
            run.append(result)
            run.save_items(key, {"correct": correct})
    sentence = "The library fell over: </script><b>1 < 2</b> & more."
    failed = Result(key="bad", view="reconstruction", codec="avif:quality=3", seed=0, status="error", error=sentence)
    run.append(failed)
    request = {
        "task": "classification", "data": "folder:/somewhere/shoes", "codecs": [c for _, c, *_ in cells[1:]],
        "views": [ceiling, "bigpatch", "resize", "latent", "reconstruction"], "backbone": "cml:small", "seeds": seeds,
        "size": None if frozen else 64, "patch": 16, "epochs": 0 if frozen else 8,
    }  # fmt: skip
    about = {"name": "classification", "description": "shoes and boots", "score": score, "size": about_sound["size"],
             "train": 0 if frozen else 600, "test": ITEMS}  # fmt: skip
    stored = {"request": request, "task": {}, "about": about, "keys": [*keys, "bad"]}
    (folder / "run.json").write_text(json.dumps(stored))
    (folder / "tables").mkdir()
    (folder / "tables" / "matched.csv").write_text(
        "# At equal rate\n# Interpolated on log rate.\ncodec,at 0.2 bpp,gain,gain_low,gain_high,gain_mark\n"
        '"jpeg, plain",0.700,-0.0512345,-0.08,-0.02,*\nwebp,0.71,0.01,-0.02,0.04,\n'
    )
    return run


def add_gallery(folder: Path) -> None:
    """Two pictures through two codecs, one of which has latents; a third codec failed."""
    where = folder / "gallery"
    where.mkdir()
    pictures = []
    for number in range(2):
        _save(photo((48, 64), 3, number), where / f"{number}.webp")
        codecs = [{"codec": "avif:quality=3", "error": "The library fell over."}]
        for place, codec in enumerate(("jpeg:quality=1", "rgb_f8c12:step=2")):
            coarse = 40 + 30 * place
            _save(
                photo((48, 64), 3, number).div(coarse, rounding_mode="floor") * coarse, where / f"{number}-{place}.webp"
            )
            entry = {
                "codec": codec,
                "bpp": 0.2 + place,
                "psnr": None if place else 30.5,
                "file": f"{number}-{place}.webp",
            }
            if place and not number:
                _save(photo((20, 20), 1), where / "latent.png")
                entry |= {"channels": 12, "grid": [6, 8], "latent": "latent.png"}
            codecs.append(entry)
        pictures.append({"index": number, "label": number, "size": [96, 64], "shown": [48, 64],
                         "file": f"{number}.webp", "codecs": codecs})  # fmt: skip
    (where / "gallery.json").write_text(json.dumps({"pictures": pictures}))


def _save(x, path: Path) -> None:
    array = x[0].numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG" if path.suffix == ".png" else "WEBP", lossless=True)
    path.write_bytes(buffer.getvalue())
