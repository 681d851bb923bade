"""Kernels are compiled once, then come from numba's cache on disk: the user is told why a first call takes long."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from numba.core import event

_Kernel = TypeVar("_Kernel")
_announced: dict[int, tuple[object, str]] = {}


def announced(what: str, *modules: ModuleType) -> Callable[[_Kernel], _Kernel]:
    """Decorate a kernel (above `njit`) so that each compilation of it logs one line; its calls cost nothing more.

    Args:
        what: completes "compiling ...", as in "the ctx decoder (ten seconds)".
        modules: those, beside its own, whose code is compiled into it: where one has changed, it is compiled again.
            Numba's cache by itself sees changes of the kernel's own file alone.
    """

    def register(kernel: _Kernel) -> _Kernel:
        _announced[id(kernel)] = kernel, what
        cache = getattr(getattr(kernel, "_cache", None), "_cache_file", None)  # not public, and not there without a JIT
        if cache is not None and modules:
            stats = [Path(str(module.__file__)).stat() for module in modules]
            cache._source_stamp = (cache._source_stamp, *((stat.st_mtime, stat.st_size) for stat in stats))
        return kernel

    return register


class _Listener(event.Listener):
    """Numba sends these events for what it really compiles, not for what it finds in its cache."""

    def on_start(self, event: event.Event) -> None:
        _, what = _announced.get(id((event.data or {}).get("dispatcher")), (None, None))
        if what is not None:
            # At the level that Python shows where nobody has set up logging.
            logging.getLogger("cml").warning("cml: compiling %s, once on this machine.", what)

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Listener())
