"""Names to things: one `Registry` serves codecs, data sets, tasks and backbones.

An entry is a string "module:attribute", imported when it is first asked for, so that a list of names costs nothing.
Other packages add entries through the entry-point groups `cml.codecs`, `cml.datasets`, `cml.tasks`, `cml.backbones`.
"""

import difflib
import fnmatch
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from cml.errors import CmlError


class Registry:
    """A lazy table of names.

    Args:
        kind: what the names are, in the singular ("codec"); used in messages and as the entry-point group.
        entries: name -> "module:attribute".
    """

    def __init__(self, kind: str, entries: Mapping[str, str]):
        self.kind = kind
        self._entries: dict[str, str] = {}
        self._plugins_loaded = False
        for name, target in entries.items():
            self.add(name, target)

    def add(self, name: str, target: str) -> None:
        """Register "module:attribute" under a name that is still free."""
        if name in self._entries:
            raise CmlError(
                f"The {self.kind} {name!r} is registered already, as {self._entries[name]}; take another name."
            )
        self._entries[name] = target

    def _load_plugins(self) -> None:
        if not self._plugins_loaded:
            self._plugins_loaded = True
            for point in importlib.metadata.entry_points(group=f"cml.{self.kind}s"):
                self.add(point.name, point.value)

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a shell pattern, sorted."""
        self._load_plugins()
        return sorted(fnmatch.filter(self._entries, pattern))

    def __contains__(self, name: str) -> bool:
        self._load_plugins()
        return name in self._entries

    def get(self, name: str) -> Any:
        """Import and return what a name stands for; an unknown name is answered with the nearest ones."""
        self._load_plugins()
        if name not in self._entries:
            raise CmlError(unknown(self.kind, name, self.names()))
        module, _, attribute = self._entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The sentence for a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return f"Unknown {kind} {name!r}: {hint}"
