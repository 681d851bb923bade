"""How much memory a piece of code needs, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

_MEASURE = """
import contextlib

def _status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1000

@contextlib.contextmanager
def measured():
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak from here on
    yield
    print(_status("VmHWM") - before)
"""


def peak_megabytes(code: str) -> float:
    """What the block `with measured():` in some Python code adds to the memory in use, at its peak."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs the peak of memory as Linux tells it")
    run = subprocess.run([sys.executable, "-c", _MEASURE + code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return float(run.stdout.split()[-1])
