"""A tiny external codec, in Python, and yaml files that describe external codecs."""

import sys
from pathlib import Path

_ZIP = """import sys, zlib
verb, source, target = sys.argv[1:4]
with open(source, "rb") as file, open(target, "wb") as out:
    out.write((zlib.compress if verb == "encode" else zlib.decompress)(file.read()))
"""
PYTHON = f"'{sys.executable}' -S"
"""How a command line starts this Python, without the packages that would make it slow."""


def describe(folder: Path, **keys: object) -> str:
    """The name of a codec whose yaml file holds some keys; without `encode`, `decode`, those of a lossless codec."""
    import yaml

    (folder / "zip.py").write_text(_ZIP)
    whole = {verb: f"{PYTHON} {{here}}/zip.py {verb} {{input}} {{output}}" for verb in ("encode", "decode")} | keys
    (folder / "my codec.yaml").write_text(yaml.safe_dump(whole))
    return f"command:{folder / 'my codec.yaml'}"
