"""Telling the user why a first call takes long: kernels are compiled once, then come from numba's cache on disk."""

import logging
from collections.abc import Callable
from typing import TypeVar

from numba.core import event

_Kernel = TypeVar("_Kernel")
_announced: dict[int, tuple[object, str]] = {}


def announced(what: str) -> Callable[[_Kernel], _Kernel]:
    """Decorate a kernel (above `njit`) so that each compilation of it logs one line; its calls cost nothing more.

    Args:
        what: completes "compiling ...", as in "the ctx decoder (ten seconds)".
    """

    def register(kernel: _Kernel) -> _Kernel:
        _announced[id(kernel)] = kernel, what
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
