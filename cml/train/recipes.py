"""Recipes: the small yaml files that `cml train codec` reads, each the whole story of a trained codec."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cml import hub
from cml.errors import CmlError, DataError
from cml.files import read_bytes


@dataclass(frozen=True)
class CodecRecipe:
    """How a codec is trained.

    Attributes:
        data: folders of pictures, of sounds where the codec has one dimension, of volumes, cubes or videos where it has
            three; or sets, such as esc10:PATH and volumes:PATH, of which the test split stays out. Environment
            variables are replaced, `$CML_DATA` by ../shared/data where it is unset.
        codec: fields of `WaveletConfig`: levels, latent_channels, and where they differ from its defaults channels
            (3), encoder, quantizer, decoder and their sizes, boundary, step, rdo, entropy.
        start: a codec to begin with, a name or a folder, instead of the closed form: weights and architecture are its;
            `codec` may change step, rdo and entropy.
        closed_form: start linear encoders and the linear part of decoders from the closed form; else from random.
        steps: smallest and largest quantization step; each iteration draws one, log-uniformly.
        rate_weight: lambda of log10 MSE + lambda log2 rate; 0 trains for distortion alone.
        rate: `context`, an estimate of what the context coder spends, or `std`, the scalar of LiVeAction.
        rounding: `noise`, uniform noise of one step, or `hard`, the codec's own with straight-through gradient.
        freeze_after: share of the iterations after which the encoder is frozen and rounding is hard; 0 freezes it
            from the start.
        crop, batch: side of the crops, and how many an iteration has, over all processes together.
        depth: of the crops along the first of three axes; 0 for `crop`.
        scales: sizes at which each picture enters.
        iterations: how many; 0 leaves the codec that training would start from.
        lr: peak learning rate of AdamW, after `warmup` iterations, then cosine to zero.
        linear_lr: that of parts which start from the closed form.
        clip: largest norm of the gradient.
        ema: decay of the average of the weights that is validated and saved.
        validation: every how many-th signal is held out; 0 holds out none.
        every: iterations between validations and checkpoints.
        seed: of crops, steps and initial weights.
        sampling_rate: samples a second to which sounds are brought; 0 leaves each at its own.
        mirror: sounds are B-format, W first, and enter mirrored along each axis, too: no direction is preferred.

    Raises:
        CmlError: values that do not make sense.
    """

    data: tuple[str, ...]
    codec: Mapping[str, Any]
    start: str = ""
    closed_form: bool = True
    steps: tuple[float, float] = (0.1, 1.0)
    rate_weight: float = 0.32
    rate: str = "context"
    rounding: str = "hard"
    freeze_after: float = 0.7
    crop: int = 128
    depth: int = 0
    batch: int = 12
    scales: tuple[float, ...] = (1.0, 0.7, 0.5)
    iterations: int = 6000
    lr: float = 1e-3
    linear_lr: float = 1e-4
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    validation: int = 14
    every: int = 500
    seed: int = 0
    sampling_rate: int = 0
    mirror: bool = False
    name: str = field(default="", compare=False)

    def __post_init__(self):
        low, high = self.steps
        checks = {
            "data must name at least one folder": len(self.data) > 0,
            "steps must be two positive numbers, the smaller first": 0 < low <= high,
            "scales must be positive numbers": len(self.scales) > 0 and min(self.scales) > 0,
            "seed, sampling_rate and depth must be 0 or more": min(self.seed, self.sampling_rate, self.depth) >= 0,
            "rate must be context or std": self.rate in ("context", "std"),
            "rounding must be hard or noise": self.rounding in ("hard", "noise"),
            "freeze_after must be 0 to 1": 0 <= self.freeze_after <= 1,
            "crop, batch, every and warmup must be 1 or more": min(self.crop, self.batch, self.every, self.warmup) >= 1,
            "iterations must be 0 or more": self.iterations >= 0,
            "lr, linear_lr and clip must be positive": min(self.lr, self.linear_lr, self.clip) > 0,
            "ema must be 0 to 1, 1 excluded": 0 <= self.ema < 1,
            "mirror is for sounds of four channels": not self.mirror or self.codec.get("channels") == 4,
            "validation must be 2 or more, or 0": self.validation == 0 or self.validation >= 2,
            "codec must name levels and latent_channels": {"levels", "latent_channels"} <= set(self.codec),
        }
        for sentence, holds in checks.items():
            if not holds:
                raise CmlError(f"The recipe is wrong: {sentence}.")

    def key(self) -> dict[str, Any]:
        """What must not change when a run goes on: everything but the number of iterations between checkpoints."""
        return {name: value for name, value in asdict(self).items() if name not in ("every", "name")}

    def sources(self) -> list[str]:
        """What `data` names, its variables replaced."""
        usual = os.environ.get("CML_DATA", "../shared/data")
        return [os.path.expanduser(os.path.expandvars(name.replace("$CML_DATA", usual))) for name in self.data]


def load_recipe(path: str | Path) -> CodecRecipe:
    """Read a recipe: a yaml file, or the one of a bundled codec by its name.

    Raises:
        DataError: no such file.
        CmlError: not yaml, an unknown key, a value of the wrong kind.
    """
    import yaml

    path = Path(path)
    bundled = hub.BUNDLED / path / "recipe.yaml"
    if not path.is_file() and bundled.is_file():
        path = bundled
    try:
        raw = yaml.safe_load(read_bytes(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not yaml: {str(error).splitlines()[0]}.") from error
    known = {f.name for f in fields(CodecRecipe)}
    if not isinstance(raw, dict) or not {"data", "codec"} <= set(raw):
        raise CmlError(f"{path} is no recipe: it must be a yaml mapping with at least `data` and `codec`.")
    if set(raw) - known:
        raise CmlError(
            f"{path} has the unknown key {sorted(set(raw) - known)[0]!r}; a recipe has {', '.join(sorted(known))}."
        )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    if isinstance(values["codec"], dict):
        # As a config has them: levels of each axis are a tuple.
        values["codec"] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["codec"].items()}
    if isinstance(values["data"], str):
        values["data"] = (values["data"],)
    name: Any = path.resolve().parent.name if path.stem == "recipe" else path.stem
    typed: dict[str, Any] = {key: _typed(key, value) for key, value in values.items()}
    return CodecRecipe(**{"name": name} | typed)


_KINDS: dict[Any, tuple[type, str]] = {
    tuple[str, ...]: (str, "a list of names"),
    tuple[float, float]: (float, "a list of two numbers"),
    tuple[float, ...]: (float, "a list of numbers"),
    float: (float, "a number"),
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "a word"),
}


def _typed(key: str, value: Any) -> Any:
    """A value as its field wants it; yaml reads 1e-3 as a word."""
    kind = next(f.type for f in fields(CodecRecipe) if f.name == key)
    if kind not in _KINDS:
        if not isinstance(value, dict):
            raise CmlError(f"The recipe is wrong: {key} must be a mapping, not {value!r}.")
        return value
    element, words = _KINDS[kind]
    several = "list" in words
    parts = value if several and isinstance(value, tuple) else (value,)
    converted = tuple(_number(part) if element is float else part for part in parts)
    if several != isinstance(value, tuple) or not parts or not all(type(part) is element for part in converted):
        raise CmlError(f"The recipe is wrong: {key} must be {words}, not {value!r}.")
    return converted if several else converted[0]


def _number(value: Any) -> Any:
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def dump_recipe(recipe: CodecRecipe) -> str:
    """A recipe as yaml that `load_recipe` reads."""
    import yaml

    plain = json.loads(json.dumps(recipe.key() | {"every": recipe.every}))
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100)
