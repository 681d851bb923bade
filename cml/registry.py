"""Names to things: one `Registry` serves codecs, data sets, tasks and backbones.

An entry is a string "module:attribute", imported when it is first asked for, so that a list of names costs nothing.
Other packages add entries through the entry-point groups `cml.codecs`, `cml.datasets`, `cml.tasks`, `cml.backbones`. A
plug-in that cannot be used, since it is broken or its name is taken, says so when its name is asked for, and only then.
"""

import difflib
import fnmatch
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
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
        self._packages: dict[str, str] = {}  # of the plug-ins
        self._clashes: dict[str, str] = {}
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
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in importlib.metadata.entry_points(group=f"cml.{self.kind}s"):
            package = point.dist.name if point.dist else "unknown"
            if point.name in self._entries:
                first = self._packages.get(point.name)
                first = f"the package {first}" if first else "cml itself"
                self._clashes[point.name] = (
                    f"The name of the {self.kind} {point.name!r} is taken twice, by {first} and by the package "
                    f"{package}: uninstall one, or ask its makers for another name."
                )
            else:
                self._entries[point.name], self._packages[point.name] = point.value, package

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
        if name in self._clashes:
            raise CmlError(self._clashes[name])
        module, _, attribute = self._entries[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever the modules of other people raise
            if name not in self._packages:
                raise
            raise CmlError(
                f"The {self.kind} {name!r} of the package {self._packages[name]} does not load "
                f"({type(error).__name__}: {error}): repair or uninstall that package."
            ) from error

    def loadable(self) -> Iterator[Any]:
        """What all names stand for, in their order; a plug-in that cannot be used is left out."""
        for name in self.names():
            try:
                thing = self.get(name)
            except CmlError:
                continue
            yield thing


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The sentence for a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return f"Unknown {kind} {name!r}: {hint}"
