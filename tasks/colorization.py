"""Colorization: grey in, colour out, in the representation of each view."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Pictures, Score
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs.base import to_uint8
from cml.codecs.resample import resize_image
from cml.data.datasets import SPLIT_SEED, TEST_SHARE, fingerprint_files, stratified_split
from cml.data.latents import ModelInputs, Space, map_items
from cml.data.signals import find_images, read_image
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.heads import build_dense
from cml.train.loop import Recipe, TrainingTime, fit

_LUMA = torch.tensor([0.299, 0.587, 0.114])
_CHROMA = torch.tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""Rows Cb and Cr of JPEG's full-range YCbCr."""
_SAMPLED = 256  # training pictures that set the unit of the loss


class Colorization:
    """What colours had it?

        grey picture (R = G = B) --codec and view--> x --pyramid, light decoder--> x + f(x) --codec's decoder--> colours

    The model adds what colour adds, in the representation that it reads: latents to latents of the same codec, rounded
    and decoded as any stored latents; small pictures to small pictures, upsampled; pixels to pixels. So the luma comes
    from what the receiver has, codec errors included, in every view alike. A linear encoder makes the latents of a
    colour picture those of the grey one plus those of its colour differences, which is what is learned.

    The main score, `chroma_explained`, is the share of the squared error of answering grey, in the two colour
    differences (Cb, Cr) over all test pictures, that the model takes away: 0 for grey, 1 for the very colours. A mean
    of decibels would not do: it is decided by pictures with next to no colour, where any answer but grey loses ten of
    them. `chroma_psnr` is of the same error, over all pictures; `colour_psnr`, of whole pictures, holds what the codec
    did to the luma besides.

    The loss is the squared error in the representation, over that of answering grey. In latents this is all but the
    error of pixels: the linear decoder of rgb_f8c48 is near orthonormal (eigenvalues of its Gram matrix 0.96 to 1.6),
    and no decoder runs in training. Flips augment; nothing is shifted.

    Args:
        data: "folder:PATH" of colour pictures, in class folders or not; PATH/train and PATH/test (or val, validation)
            are the splits where both are there, else a seeded quarter of the files is test.
        backbone: as for `build_features`; None for "cml:small".
        size: side in pixels; None for the data set's own.
        epochs: of training; None for 16.
    """

    name = "colorization"
    version = 2
    main_score = "chroma_explained"
    flips: tuple[str, ...] = ("none", "h")
    patch = 8
    frozen = False
    channels = 3
    quick_size: int | None = 64
    views: tuple[str, ...] = ("pixels", "bigpatch", "resize", "latent", "reconstruction", "retrained")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        self._paths = _splits(data)
        self.backbone = backbone or "cml:small"
        if size is not None and size < 16:
            raise CmlError(f"Colorization needs pictures of 16 pixels a side or more, not {size}.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        files = [*self._paths["train"], *self._paths["test"]]
        side = size or _usual_side(self._paths["train"])
        self.size = (side, side)
        self.description = f"{Path(data.partition(':')[2]).resolve().name}, grey to colour"
        self.epochs = epochs or 16
        self.recipe = Recipe(epochs=self.epochs, batch_size=32)
        self._revision = fingerprint_files(files, [0] * len(self._paths["train"]) + [1] * len(self._paths["test"]))
        self._colours: dict[str, Tensor] = {}

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self._revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
            "augmentation": {"flips": self.flips},
        }

    @property
    def chance(self) -> float:
        """Of the grey pictures themselves."""
        return 0.0

    def count(self, split: str) -> int:
        return len(self._paths[split])

    def load(self, on_item: Callable[[], None]) -> None:
        for split in ("train", "test"):
            self._read(split, on_item)

    def labels(self, split: str) -> Tensor:
        """The colour pictures, uint8 (N, 3, *size)."""
        return self._read(split, lambda: None)

    def _read(self, split: str, on_item: Callable[[], None]) -> Tensor:
        if split not in self._colours:
            paths = self._paths[split]
            read = map_items(lambda index: _read_colours(paths[index], self.size), len(paths), on_item)
            self._colours[split] = torch.stack(read)
        return self._colours[split]

    def signal(self, split: str, index: int) -> Tensor:
        return grey(self.labels(split)[index])

    def normalization(self) -> tuple[Tensor, Tensor]:
        return torch.full((3,), 2 / 127.5), torch.full((3,), -2.0)

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, path = build_dense(self.backbone, stem, stem.channels, stem.grid, spacing=1)
        for parameter in model.head.answer.parameters():
            nn.init.zeros_(parameter)  # it starts by answering grey
        return _Adds(model).to(memory_format=torch.channels_last), f"model.{path}"  # pyright: ignore[reportCallIssue]

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        space = _space(inputs)
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(self.recipe.batch_size, len(inputs))
        steps = len(inputs) // batch_size

        def pairs(indices: Tensor, flips: Tensor | None) -> tuple[Tensor, Tensor]:
            colours = torch.stack([space.represent(x) for x in inputs.targets(indices, flips)])
            return inputs.batch(indices, flips), colours

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            order = torch.randperm(len(inputs), generator=generator)
            for indices in order[: steps * batch_size].split(batch_size):
                yield pairs(indices, torch.randint(len(inputs.flips), indices.shape, generator=generator))

        x, colours = pairs(torch.arange(0, len(inputs), max(1, len(inputs) // _SAMPLED)), None)
        unit = F.mse_loss(x, colours).clamp(min=1e-6)

        def loss(model: nn.Module, x: Tensor, colours: Tensor) -> Tensor:
            return F.mse_loss(model(x), colours) / unit

        with torch.random.fork_rng():
            torch.manual_seed(seed)  # dropout inside the model
            return fit(model, batches, steps, loss, self.recipe, on_epoch)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        space = _space(inputs)
        colours = torch.cat([model(inputs.batch(part)) for part in torch.arange(len(inputs)).split(64)])
        answers = torch.stack(map_items(lambda index: space.picture(colours[index]), len(colours)))
        pairs = list(zip(inputs.labels, answers, strict=True))
        error = np.array([_mse(chroma(x), chroma(y)) for x, y in pairs])
        of_grey = np.array([_mse(chroma(x), chroma(grey(x))) for x in inputs.labels])
        explained = 1 - error / max(of_grey.mean(), 1e-3)
        return Score(
            metrics={
                "chroma_explained": float(explained.mean()),
                "chroma_psnr": _decibels(error.mean()),
                "colour_psnr": float(np.mean([_decibels(_mse(x, y)) for x, y in pairs])),
                "colourfulness": float(np.mean([colourfulness(x) for x in answers])),
                "colourfulness_of_truth": float(np.mean([colourfulness(x) for x in inputs.labels])),
            },
            items={"outcome": explained},
            pictures=Pictures(inputs.labels, answers, range(len(answers)), measures=("ssim", "lpips")),
        )


class _Adds(nn.Module):
    """x + model(x)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


def grey(x: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in all three channels: uint8 (3, H, W) to the same."""
    luma = torch.einsum("c,chw->hw", _LUMA, x.float()).round().to(torch.uint8)
    return luma.expand(3, -1, -1).contiguous()


def chroma(x: Tensor) -> Tensor:
    """Cb and Cr around zero, float32 (2, H, W), of uint8 (3, H, W)."""
    return torch.einsum("kc,chw->khw", _CHROMA, x.float())


def colourfulness(x: Tensor) -> float:
    """Hasler and Suesstrunk (2003): 0 for grey, about 33 "moderately" and 59 "quite colourful"; of (3, H, W) uint8."""
    red, green, blue = x.double()
    opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(1)
    spread, mean = opponents.std(1, correction=0), opponents.mean(1)
    return float(spread.square().sum().sqrt() + 0.3 * mean.square().sum().sqrt())


def _mse(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).square().mean())


def _decibels(mse: float) -> float:
    """PSNR for a range of 255; 78 for equal pictures, so that it has a mean."""
    return 10 * math.log10(255**2 / max(float(mse), 1e-3))


def _space(inputs: ModelInputs) -> Space:
    if inputs.space is None:
        raise CmlError("Colorization needs to know how its inputs represent pictures (ModelInputs.space).")
    return inputs.space


def _splits(data: str) -> dict[str, list[Path]]:
    kind, _, path = data.partition(":")
    root = Path(path).expanduser()
    if kind != "folder" or not path or not root.is_dir():
        raise DataError(f"The task colorization needs --data folder:PATH, a folder of colour pictures, not {data!r}.")
    held_out = next((name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held_out:
        return {"train": find_images(root / "train"), "test": find_images(root / held_out)}
    files = find_images(root)
    held = stratified_split([""] * len(files), TEST_SHARE, SPLIT_SEED)
    splits = {"train": [f for f, t in zip(files, held, strict=True) if not t]}
    splits["test"] = [f for f, t in zip(files, held, strict=True) if t]
    if not splits["test"]:
        raise DataError(f"{root}: two pictures or more are needed, to train and to test.")
    return splits


def _usual_side(files: list[Path]) -> int:
    """The median shorter side, in steps of 32 up to 256, of some pictures."""
    sides = [min(read_image(file, 3).shape[1:]) for file in files[:: max(1, len(files) // 32)]]
    return max(32, min(256, int(np.median(sides)) // 32 * 32))


def _read_colours(path: Path, size: tuple[int, int]) -> Tensor:
    image = read_image(path, 3)
    return image if tuple(image.shape[1:]) == size else to_uint8(resize_image(image.float() / 127.5 - 1, size))
