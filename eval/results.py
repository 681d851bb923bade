"""A run on disk: an append-only `results.jsonl`, one line a finished cell, found again by its content key."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from cml.errors import CmlError, DataError
from cml.files import write_atomic


@dataclass(frozen=True)
class Result:
    """One cell of a comparison: one view of one codec at one operating point, with one seed."""

    key: str
    """Content key: task, data revision, preprocessing, codec configuration and weights, seed, versions."""
    view: str
    """What the model saw: pixels, bigpatch, resize, latent or reconstruction."""
    codec: str
    """The operating point, as `create_codec` takes it."""
    seed: int
    status: str
    """"ok", or "error" with the sentence in `error`; only ok cells are never run again."""
    error: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scores on the test split."""
    bpp: float = 0.0
    """Mean over test items of 8 x the bytes of the whole container / pixels."""
    dimensions: int = 0
    """Values a sample that the model read."""
    tokens: int = 0
    """Positions that leave the model's stem."""
    stem_macs: int = 0
    backbone_macs: int = 0
    parameters: int = 0
    encode_mps: float = 0.0
    """Megapixels a second, picture to container, by processor time of one thread."""
    load_ips: float = 0.0
    """Samples a second, container to the model's input, the same way."""
    train_ips: float = 0.0
    """Samples a second while training, all threads of the cell's process (`environment` has their number: 1 on a Ray
    worker, beside others that train); for `reconstruction` that of the model it uses."""
    seconds: float = 0.0
    """That the cell took, with its share of what the seeds of a condition have in common; 0 where nobody looked."""
    psnr: float | None = None
    """Mean over test items, dB, 8-bit range; None where nothing is reconstructed."""
    chance: float = 0.0
    """The main score of a model that has seen nothing."""
    codec_cost: Mapping[str, float] = field(default_factory=dict)
    """MACs a pixel and parameters of the codec's encoder and decoder, computed; empty for codecs of other libraries."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Every option of the codec in force, and its library's version."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the key was made of."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Machine, threads and versions; for timings, not part of the key."""


def cell_key(context: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that change when anything of the context does."""
    return hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()[:16]


class Run:
    """The folder of a comparison. Several processes may add to it, on one machine or on many that share it.

    results.jsonl   one line a cell, appended and flushed when it is finished
    items/KEY.npz   per-item outcomes, for paired comparisons
    models/KEY.safetensors   the models of `pixels` and `bigpatch`, which `reconstruction` uses
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.file = self.folder / "results.jsonl"
        self._results: dict[str, Result] = {}
        self._bytes = self._number = 0  # of the file that `_results` holds

    def results(self) -> dict[str, Result]:
        """The latest result of every key."""
        self.news()
        return dict(self._results)

    def news(self) -> list[Result]:
        """Results that were added, by any process, since this object looked last."""
        # Every cell asks: only what came since is read.
        if not self.file.exists():
            return []
        with open(self.file, "rb") as file:
            _lock(file, shared=True)  # nobody cuts or extends the last line in the midst of this
            file.seek(self._bytes)
            *lines, _ = file.read().split(b"\n")  # behind the last newline: a line whose process died; it runs again
        known = {f.name for f in fields(Result)}
        news = []
        for line in lines:
            self._bytes += len(line) + 1
            self._number += 1
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
                result = Result(**{key: value for key, value in raw.items() if key in known})
            except (ValueError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{self.file}, line {self._number} is not a result ({error}); remove that line."
                ) from error
            self._results[result.key] = result
            news.append(result)
        return news

    def finished(self, key: str, model: bool = False) -> bool:
        """Whether a cell has a good result, and its model is kept if one is asked for."""
        result = self.results().get(key)
        return result is not None and result.status == "ok" and not (model and not self.model_path(key).exists())

    def append(self, result: Result) -> None:
        """Add a finished cell; it is on the disk when this returns.

        Processes take turns, so a last line without its newline is never one that another process still writes: its
        writer was killed, or the disk was full, and it must not swallow this one.
        """
        line = (json.dumps(asdict(result)) + "\n").encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.file, "ab+", buffering=0) as file:
                _lock(file)
                size = file.seek(0, os.SEEK_END)
                if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
                    file.truncate(_last_newline(self.file))
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"Cannot write {self.file}: {error.strerror or error}.") from error

    def share(self) -> None:
        """Make sure that several processes may append; without locks one could cut the line that another writes.

        Raises:
            CmlError: the folder's file system has no locks.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.file, "ab") as file:
                locks = _lock(file)
        except OSError as error:
            raise DataError(f"Cannot write {self.file}: {error.strerror or error}.") from error
        if not locks:
            raise CmlError(
                f"The file system of {self.folder} has no file locks, so several workers cannot write there; choose "
                "another folder (--out)."
            )

    def save_items(self, key: str, items: Mapping[str, np.ndarray]) -> None:
        """Keep the outcome of each test item."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **items)
        write_atomic(self.folder / "items" / f"{key}.npz", buffer.getvalue())

    def items(self, key: str) -> dict[str, np.ndarray]:
        """The outcome of each test item of a cell."""
        with np.load(self.folder / "items" / f"{key}.npz") as file:
            return dict(file)

    def model_path(self, key: str) -> Path:
        """Where the trained model of a cell is kept."""
        return self.folder / "models" / f"{key}.safetensors"


def _last_newline(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _lock(file: IO[bytes], shared: bool = False) -> bool:
    """Wait until no other process has a file, until it is closed; False where files cannot be locked.

    Without locks one process at a time is as safe as ever.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except (ImportError, OSError):
        return False
    return True
