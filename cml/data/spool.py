"""The open shard of an encoding: finished samples are appended at once, so that no kill loses one."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cml.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_PATIENCE = 20  # tenths of a second


class Spool:
    """An Arrow IPC stream on a local disk that grows by one record a sample.

        append(row) --one write, past all buffers--> .train-00003.part        a record that a kill cut off is dropped

    While it is open no other process can open it: of two encodings into one folder the second gets a sentence. Use it
    as a context manager.

    Args:
        path: the file; what it holds already is kept.
        schema: of the rows.

    Raises:
        DataError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: str | Path, schema: "pa.Schema"):
        self._path, self._schema = Path(path), schema
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        try:
            _lock(self._file.fileno(), self._path)
            self._batches, self._end = _whole_records(self._file.readall(), schema)
            self._file.truncate(self._end)
            self._file.seek(self._end)
            if not self._end:
                self._write(schema.serialize())
        except OSError as error:
            self._file.close()
            raise _unwritable(self._path, error) from error
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # and with it the lock

    def append(self, row: Mapping[str, Any]) -> None:
        """One row, on disk when this returns."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_pylist([row], self._schema)
        try:
            self._write(batch.serialize())
        except OSError as error:
            self._file.truncate(self._end)  # of a record that found no room
            self._file.seek(self._end)
            raise _unwritable(self._path, error) from error
        self._batches.append(batch)

    def table(self) -> "pa.Table":
        """All rows, in the order in which they came."""
        import pyarrow as pa

        return pa.Table.from_batches(self._batches, self._schema)

    def remove(self) -> None:
        """Delete the file: its rows lie elsewhere."""
        self._path.unlink(missing_ok=True)

    def _write(self, data: "pa.Buffer") -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._end += len(data)


def _whole_records(data: bytes, schema: "pa.Schema") -> "tuple[list[pa.RecordBatch], int]":
    """The records of a stream, and where the last whole one ends; 0 if it is not of this schema."""
    import pyarrow as pa

    stream, batches, end = pa.BufferReader(data), [], 0
    try:
        if not pa.ipc.read_schema(stream).equals(schema):
            return [], 0
        end = stream.tell()
        while end < len(data):
            batches.append(pa.ipc.read_record_batch(pa.ipc.read_message(stream), schema))
            end = stream.tell()
    except (pa.ArrowException, OSError, EOFError, ValueError):
        pass  # cut off
    return batches, end


def _lock(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody guards against two encodings into one folder
        return
    for _ in range(_PATIENCE):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)  # a process that was killed this moment may still be closing its files
    raise DataError(f"Another process is encoding into {path.parent}: wait for it, or stop it.")


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"Cannot write {path}: {error.strerror or error}.")
