"""Matrices as files: the short yaml that `cml compare FILE` reads, and that every run leaves as its `matrix.yaml`.

    task: classification
    data: folder:photos
    codecs:
      - resize:factor=4
      - jpeg: {quality: [5, 10, 30, 60]}           # every combination of the lists is an operating point
      - rgb_f8c12: {step: [0.25, 0.5, 1], entropy: ctx}
    seeds: 3

The keys are the fields of `Matrix`, and `out`, the folder of the run. Paths count from where the command runs.
"""

import itertools
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from cml.eval.matrix import Matrix

from cml.errors import CmlError, DataError
from cml.files import read_bytes
from cml.registry import unknown

NAME = "matrix.yaml"
"""Of the file in the folder of a run."""


def read_matrix(path: str | Path) -> dict[str, Any]:
    """What a file says: arguments of `Matrix` by name, and `out`; a key that it leaves out is not there.

    Raises:
        DataError: no such file, or not yaml.
        CmlError: an unknown key, or a value of the wrong kind.
    """
    try:
        # Every scalar stays a word: yaml would read 4:2:0 as 14520, and no as false.
        raw = yaml.load(read_bytes(path), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not yaml: {' '.join(str(error).split())}.") from error
    kinds: dict[str, Any] = {f.name: f.type for f in fields(Matrix)} | {"out": str}
    if not isinstance(raw, dict):
        raise CmlError(f"{path} is no matrix: it must be a yaml mapping of {', '.join(kinds)}.")
    for key in raw:
        if key not in kinds:
            raise CmlError(f"{path}: {unknown('key', str(key), list(kinds))}")
    try:
        return {key: _value(key, kinds[key], value) for key, value in raw.items()}
    except CmlError as error:
        raise CmlError(f"{path}: {error}") from error


def dump_matrix(request: Mapping[str, Any], out: Path) -> str:
    """The settings of a comparison with nothing left open, as yaml that `read_matrix` reads."""
    settings = {key: value for key, value in request.items() if value is not None} | {"out": str(out)}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)


_KINDS = {int: "a whole number", bool: "true or false", str: "a word", tuple: "a list of words"}


def _value(key: str, kind: Any, value: Any) -> Any:
    """Words as the field wants them."""
    if key == "codecs":
        return _points(value)
    # int of `int`, and of `int | None`; tuple of `tuple[str, ...] | None`
    plain = next(k for k in _KINDS if k in (kind, *(get_origin(part) or part for part in get_args(kind))))
    if plain is tuple and isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return tuple(value)
    if plain is str and isinstance(value, str) and value:
        return value
    if plain is int and isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    if plain is bool and value in ("true", "false"):
        return value == "true"
    raise CmlError(f"{key} must be {_KINDS[plain]}, not {_shown(value)}.")


def _points(entries: Any) -> tuple[str, ...]:
    """Operating points from strings and sweeps."""
    if not isinstance(entries, list) or not entries:
        raise CmlError(f"codecs must be a list of operating points, not {_shown(entries)}.")
    points: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            points += [point for name, options in entry.items() for point in _sweep(name, options)]
        elif isinstance(entry, str) and entry:
            points.append(entry)
        else:
            raise CmlError(f"codecs must be a list of operating points, and {_shown(entry)} is none.")
    return tuple(points)


def _sweep(name: str, options: Any) -> list[str]:
    """Every combination of the values of some options; the last option runs fastest."""
    usage = f"the options of {name} must be a mapping such as {{quality: [5, 10]}}"
    if not isinstance(options, dict) or not options:
        raise CmlError(f"{usage}, not {_shown(options)}.")
    values = [value if isinstance(value, list) else [value] for value in options.values()]
    for words in values:
        if not words or not all(isinstance(word, str) and word for word in words):
            raise CmlError(f"{usage}, and {_shown(words)} is no list of values.")
    joint = "," if "=" in name else ":"
    return [
        name + joint + ",".join(f"{option}={word}" for option, word in zip(options, words, strict=True))
        for words in itertools.product(*values)
    ]


def _shown(value: Any) -> str:
    return repr(value) if value else "nothing"
