"""The peak memory of one codec on one picture, in a process of its own: python -m cml.eval.bench_memory REQUEST.

REQUEST is JSON: {"codec": name, "threads": n, "picture": file of a uint8 (3, H, W) array}; the answer, on the last line
of standard output, is JSON: {"encode": megabytes, "decode": megabytes}, beyond what goes in and what comes out.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cml.eval.bench_machine import peak_of
from cml.eval.bench_rivals import make_subject
from cml.eval.bench_subjects import using_threads
from PIL import Image

from cml.errors import CmlError

_PATIENCE = 300
_WARM_UP = 128  # pixels a side


def memory_of(codec: str, threads: int, picture: Path) -> dict[str, float]:
    """Ask a fresh process."""
    request = json.dumps({"codec": codec, "threads": threads, "picture": str(picture)})
    command = [sys.executable, "-m", "cml.eval.bench_memory", request]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"it took more than {_PATIENCE} seconds"
    raise CmlError(f"The memory of {codec} could not be measured: {reason}.")


def measure(codec: str, threads: int, picture: str) -> dict[str, float]:
    """The measurement itself; warmed up on a corner, so that imports and compiled code are not counted."""
    with using_threads(threads):
        subject = make_subject(codec, threads)
        x = torch.from_numpy(np.load(picture))
        subject.decode(subject.encode(subject.take(x[:, :_WARM_UP, :_WARM_UP].contiguous())))
        source = subject.take(x)
        blob, encode = peak_of(lambda: subject.encode(source))
        decoded, decode = peak_of(lambda: subject.decode(blob))
    return {
        "encode": max(0.0, encode - len(blob) / 1e6),
        "decode": max(0.0, decode - _megabytes(decoded)),
    }


def _megabytes(decoded: Any) -> float:
    if isinstance(decoded, Image.Image):
        # Pillow keeps four bytes a pixel of RGB.
        return decoded.width * decoded.height * 4 / 1e6
    return decoded.numel() * decoded.element_size() / 1e6


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
