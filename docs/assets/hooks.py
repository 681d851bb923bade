"""Writes the page of the commands from the command line itself, so that it is never out of date."""

import inspect
from typing import Any

import typer.main

from cml.cli import app

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by mkdocs with each page."""
    if MARK not in markdown:
        return markdown
    return markdown.replace(MARK, "\n".join(_describe("cml", typer.main.get_command(app))))


def _describe(path: str, command: Any) -> list[str]:
    subcommands = getattr(command, "commands", {})
    if subcommands:
        return [line for name, each in subcommands.items() for line in _describe(f"{path} {name}", each)]
    return [f"## {path}", "", inspect.cleandoc(command.help), "", *map(_parameter, command.params), ""]


def _parameter(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    name = parameter.name.upper() if argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    needed = " (needed)" if parameter.required else ""
    return f"- `{name}`{needed}: {' '.join((parameter.help or '').split())}"
