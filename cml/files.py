"""Writing files so that nothing is lost: to a temporary name in the same folder, then renamed."""

import os
import tempfile
from pathlib import Path

from cml.errors import DataError


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a whole file or none of it; the folder is made when it is missing."""
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
            # mkstemp makes files private; a result file gets the permissions that open() would give.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, or a `DataError` that names it."""
    try:
        # Unbuffered: half the time of Path.read_bytes, which shows where thousands of small files are read.
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
