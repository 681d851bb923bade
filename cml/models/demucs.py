"""Demucs: separators of music that come trained (Défossez et al.), for `cml compare --task separation`.

demucs:NAME     a model of the Hugging Face hub, htdemucs or htdemucs_ft, cached as all of the hub
demucs:FOLDER   what such a repository holds: one .yaml, and the .safetensors that it names
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from cml.codecs.resample_sound import resample
from cml.errors import CmlError
from cml.files import read_bytes

REST = "other"
"""The source that is all that no other one is."""


@dataclass(frozen=True)
class Demucs:
    """A trained separator.

    Attributes:
        model: of the package demucs, in evaluation mode.
        sources: what it tells apart.
        rate, channels: of the sound that it takes.
        revision: fingerprint of its weights.
    """

    model: nn.Module
    sources: tuple[str, ...]
    rate: int
    channels: int
    revision: str


def load_demucs(name: str) -> Demucs:
    """A model by the name of the hub, or by the path of a folder.

    Raises:
        CmlError: the package or the weights are missing.
    """
    try:
        from demucs import hf  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    except ImportError as error:
        raise CmlError("Trained separators need the package demucs: pip install 'demucs>=4.1'.") from error
    folder = Path(name).expanduser()
    model = (_from_folder(folder, hf) if folder.is_dir() else _from_hub(name, hf)).eval()
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return Demucs(
        model, tuple(model.sources), int(model.samplerate), int(model.audio_channels), digest.hexdigest()[:12]
    )


def _from_folder(folder: Path, hf: Any) -> Any:
    from demucs.apply import BagOfModels  # pyright: ignore[reportMissingImports]

    files = sorted(folder.glob("*.yaml"))
    if len(files) != 1:
        raise CmlError(f"{folder} holds no Demucs model: that is one .yaml, and the .safetensors that it names.")
    from safetensors import SafetensorError

    try:
        bag = yaml.safe_load(read_bytes(files[0]))
        paths = [folder / f"{signature}.safetensors" for signature in bag["models"]]
        for path in paths:
            _check_class(path)
        return BagOfModels([hf.load_safetensors_model(path) for path in paths], bag.get("weights"), bag.get("segment"))
    except (
        yaml.YAMLError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise CmlError(f"{files[0]} does not describe a Demucs model: {str(error).splitlines()[0]}.") from error


def _check_class(path: Path) -> None:
    """The file names the class that is made of it: no other than those of the package."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        name = (file.metadata() or {}).get("klass", "")
    if not name.startswith("demucs."):
        raise CmlError(f"{path} is no model of Demucs: it names the class {name!r}.")


def _from_hub(name: str, hf: Any) -> Any:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return hf.get_hf_model(name)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise CmlError(
            f"Cannot fetch the Demucs model {name!r} from the Hugging Face hub ({type(error).__name__}): check the "
            "name and the network, or bring its .yaml and .safetensors files in a folder and give demucs:FOLDER."
        ) from error


class DemucsStems(nn.Module):
    """What Demucs hears as the stems that a data set has.

        mixture (B, C, T) --resampled, its channels--> sources --summed up, resampled back--> (B, S C, T)

    Every stem is the sum of some sources; see `share`.

    Args:
        demucs: the model.
        shares: of each stem, the numbers of its sources.
        rate: samples a second of the mixtures.
    """

    def __init__(self, demucs: Demucs, shares: Sequence[Sequence[int]], rate: int):
        super().__init__()
        self.stem = nn.Identity()  # nothing of it belongs to a view
        self._demucs, self.model, self._shares, self._rate = demucs, demucs.model, shares, rate

    def forward(self, x: Tensor) -> Tensor:
        from demucs.apply import apply_model  # pyright: ignore[reportMissingImports]

        wanted, channels = self._demucs.channels, x.shape[1]
        mixture = x if channels == wanted else x.mean(1, keepdim=True).expand(-1, wanted, -1)
        mixture = self._at(self.stem(mixture), self._rate, self._demucs.rate)
        # As its own command does: brought to mean 0 and deviation 1.
        mono = mixture.mean(1, keepdim=True)
        mean, std = mono.mean(2, keepdim=True), mono.std(2, keepdim=True).clamp(min=1e-8)
        sources = apply_model(self.model, (mixture - mean) / std, shifts=0) * std[:, None] + mean[:, None]
        sources = self._at(sources, self._demucs.rate, self._rate)[..., : x.shape[2]]
        if channels != wanted:
            sources = sources.mean(2, keepdim=True).expand(-1, -1, channels, -1)
        return torch.cat([sources[:, numbers].sum(1) for numbers in self._shares], 1)

    def _at(self, x: Tensor, before: int, after: int) -> Tensor:
        return resample(x.reshape(-1, x.shape[-1]), before, after).unflatten(0, x.shape[:-1])


def share(sources: Sequence[str], stems: Sequence[str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """How to compare what a model tells apart with what a data set has: groups of the same names, of each.

    A stem that is a source is compared with it, `bass_drums` with the sum of the two, and all other stems together
    with the source `other`. Sources that no stem asks for are left out.

    Returns:
        (name -> numbers of sources, name -> numbers of stems).
    """
    theirs: dict[str, list[int]] = {}
    ours: dict[str, list[int]] = {}
    for number, stem in enumerate(stems):
        words = [stem] if stem in sources else stem.split("_")
        name = stem if all(word in sources for word in words) else REST
        theirs[name] = [place for word in (words if name != REST else [REST]) for place in _places(sources, word)]
        ours.setdefault(name, []).append(number)
    if len(ours) < 2 or not all(theirs.values()):
        has, tells = ", ".join(stems), ", ".join(sources)
        raise CmlError(f"The model tells apart {tells}, and the data has {has}: those do not go together.")
    return theirs, ours


def _places(sources: Sequence[str], name: str) -> list[int]:
    return [number for number, source in enumerate(sources) if source == name]
