"""Pre-trained things are a folder of `config.json` and `model.safetensors`: bundled, local, or on the Hugging Face hub.

"rgb_f8c48"              bundled with cml
"./my_codec"             a local folder
"hf:owner/name@revision" a model repository on the hub (the revision is optional)
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cml.errors import CmlError
from cml.files import write_atomic

BUNDLED = Path(__file__).parent / "weights"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def bundled_names() -> list[str]:
    """The names of the weights that come with cml."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


def locate(name: str) -> Path | None:
    """The local folder of a name, fetched from the hub if it starts with `hf:`; None if there is no such thing."""
    if name.startswith("hf:"):
        return _download(name.removeprefix("hf:"))
    if name in bundled_names():
        return BUNDLED / name
    return Path(name) if (Path(name) / CONFIG).is_file() else None


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo_id, _, revision = repository.partition("@")
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise CmlError(
            f"Cannot fetch {repo_id!r} from the Hugging Face hub ({type(error).__name__}): check the name and the "
            f"network, or bring its {CONFIG} and {WEIGHTS} in a folder and give that folder's path."
        ) from error


def read_checkpoint(path: Path, *inert: Any) -> dict[str, Any]:
    """A mapping that torch saved, read without running what it holds.

    Args:
        path: the file.
        inert: classes beside tensors that it may hold.
    """
    if not path.is_file():
        raise CmlError(f"There is no checkpoint {path}; give the path of a downloaded file.")
    try:
        with torch.serialization.safe_globals(list(inert)):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in as many ways as it has instructions
        raise CmlError(
            f"{path} is damaged, or holds more than tensors and settings, which cml does not run: load it where you "
            "trust it, and save its state dict and settings again (torch.save)."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CmlError(
            f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dictionary, so no state dict."
        )
    return checkpoint


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise CmlError(f"Cannot read {folder / CONFIG}: {error}.") from error
    if not isinstance(config, dict):
        raise CmlError(f"{folder / CONFIG} is no configuration: it must be a mapping.")
    return config


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return read_config(folder), load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CmlError(f"Cannot read {folder / WEIGHTS}: {error}.") from error


def save(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor], card: str) -> None:
    """Write config, weights and the model card (`README.md`); the config last, since it marks the folder complete."""
    from safetensors.torch import save as serialize

    folder = Path(folder)
    write_atomic(folder / WEIGHTS, serialize({name: tensor.contiguous() for name, tensor in tensors.items()}))
    write_atomic(folder / "README.md", card)
    write_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")
