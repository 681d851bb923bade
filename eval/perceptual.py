"""LPIPS and DISTS, by piq: distances between features of a VGG-16, whose weights are brought or fetched once."""

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import torch
from cml.eval.metrics import load_piq
from torch import Tensor

from cml.errors import CmlError, DataError

_VGG = "vgg16-397923af.pth"
_RELEASES = "https://github.com/photosynthesis-team/"
# Each measure's files, as torch hub names them, and where they come from.
FILES = {
    "LPIPS": {
        _VGG: f"https://download.pytorch.org/models/{_VGG}",
        "lpips_weights.pt": f"{_RELEASES}photosynthesis.metrics/releases/download/v0.4.0/lpips_weights.pt",
    },
    "DISTS": {
        _VGG: f"https://download.pytorch.org/models/{_VGG}",
        "dists_weights.pt": f"{_RELEASES}piq/releases/download/v0.4.1/dists_weights.pt",
    },
}
_SMALLEST = 32
"""Side in samples that the five halvings of a VGG-16 need."""


def perceptual(name: str) -> Callable[[Tensor, Tensor], float]:
    """A perceptual distance as -10 log10(distance), in dB: higher is better, infinite for equal pictures.

    The dB are how WaLLoC and LiVeAction print LPIPS and DISTS.

    Args:
        name: "LPIPS" (Zhang et al., 2018; VGG-16) or "DISTS" (Ding et al., 2020).

    Returns:
        A function of x and x_hat, both (3, H, W) in [0, 255] with sides of 32 or more.

    Raises:
        CmlError: piq is not installed, or a file of weights is neither in torch hub's folder nor to be had.
    """
    piq = load_piq()
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for file, url in FILES[name].items():
        if not (folder / file).exists():
            _fetch(name, file, url, folder)
    with warnings.catch_warnings():
        # piq names the weights of torchvision in the old way, which still works.
        warnings.simplefilter("ignore", UserWarning)
        try:
            measure = getattr(piq, name)(reduction="none").eval()
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CmlError(
                f"The weights of {name} in {folder} are damaged ({type(error).__name__}): remove "
                f"{', '.join(FILES[name])} and run again."
            ) from error

    @torch.no_grad()
    def distance(x: Tensor, x_hat: Tensor) -> float:
        if x.shape[0] != 3 or min(x.shape[1:]) < _SMALLEST:
            raise DataError(f"{name} takes RGB pictures of {_SMALLEST} or more a side, not {tuple(x.shape)}.")
        value = float(measure(x[None].float() / 255, x_hat[None].float() / 255))
        return -10 * math.log10(value) if value > 0 else math.inf

    return distance


def _fetch(name: str, file: str, url: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(folder / file))
    except (URLError, OSError) as error:
        raise CmlError(
            f"{name} needs the file {file}, which could not be fetched ({error}): bring it from "
            f"{url} into {folder} (or set TORCH_HOME)."
        ) from error
