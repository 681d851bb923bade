"""Checkpoints: one file, written whole or not at all, that knows which run it belongs to."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cml.errors import CmlError
from cml.files import write_atomic

CHECKPOINT, LOSSES = "training.pt", "losses.csv"


def save_checkpoint(path: Path, identity: str, done: int, parts: Mapping[str, Any]) -> None:
    """Write how many steps are done and the `state_dict` of every part."""
    buffer = io.BytesIO()
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"recipe": identity, "done": done} | states, buffer)
    write_atomic(path, buffer.getvalue())


def resume(path: Path, identity: str, parts: Mapping[str, Any]) -> int:
    """Load every part's state; how many steps are done, 0 where there is no checkpoint.

    Raises:
        CmlError: the checkpoint is of another run than `identity`, or damaged.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != identity:
            raise CmlError(
                f"{path.parent} holds a run of another recipe or of other data: give another folder, or remove "
                f"{path.name}."
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["done"]
    except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CmlError(f"Cannot read the checkpoint {path}: {str(error).splitlines()[0]}; remove it.") from error
