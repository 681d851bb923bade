"""For the API page: `cml.eval` and `cml.tasks` lie at the top of the repository, where griffe does not look."""

from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]


class Rooms(griffe.Extension):
    """Hangs the folders eval/ and tasks/ below the package cml, as the installed package has them."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if pkg.name != "cml":
            return
        for room in ("eval", "tasks"):
            module = griffe.load(
                room,
                search_paths=[ROOT],
                lines_collection=loader.lines_collection,
                docstring_parser=loader.docstring_parser,
                docstring_options=loader.docstring_options,
            )
            pkg.set_member(room, module)
