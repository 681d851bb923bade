"""A first call on a fresh machine says that it compiles; later ones, and later processes, say nothing."""

import os
import subprocess
import sys

import numpy as np

from cml.codecs.compiled import announced

_KERNEL = """
import numpy as np
from numba import njit
from cml.codecs.compiled import announced

@announced("the trial (a second)")
@njit(cache=True)
def double(x):
    return x + x

for _ in range(2):
    assert double(2) == 4
"""


def test_compiling_is_said_once(tmp_path):
    (tmp_path / "kernel.py").write_text(_KERNEL)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run(
            [sys.executable, "-W", "error", str(tmp_path / "kernel.py")],
            capture_output=True,
            text=True,
            check=True,
            env=environment | more,
        ).stderr
        for more in ({}, {}, {"NUMBA_DISABLE_JIT": "1"})
    ]
    assert said == ["cml: compiling the trial (a second), once on this machine.\n", "", ""]


def test_a_change_of_what_is_compiled_in_is_seen(tmp_path):
    (tmp_path / "part.py").write_text("from numba import njit\n\n@njit\ndef change(x):\n    return x + x\n")
    kernel = _KERNEL.replace('second)")', 'second)", part)').replace("x + x", "part.change(x)")
    (tmp_path / "kernel.py").write_text("import sys\nimport part\n" + kernel.replace("== 4", "== int(sys.argv[1])"))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(expected: int) -> str:
        command = [sys.executable, str(tmp_path / "kernel.py"), str(expected)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr

    assert run(4) and not run(4)
    (tmp_path / "part.py").write_text("from numba import njit\n\n@njit\ndef change(x):\n    return x + x + x\n")
    assert run(6) and not run(6)


def test_the_kernel_stays_what_it_is():
    kernel = np.add
    assert announced("nothing")(kernel) is kernel
