"""A latent data set larger than memory, read row group by row group into shuffled batches."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cml.codecs.base import Latent
from cml.data.batches import UNLABELLED, LatentBatch, LatentFormat, collate
from cml.data.latent_files import ROWS, SplitFiles, open_root
from cml.data.order import Layout
from cml.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class _Row(NamedTuple):
    """One sample as it lies in a shard."""

    blob: bytes
    label: int
    file: str
    id: str

    def source(self) -> str:
        """Where it lies, for messages."""
        return f"{self.file}, sample {self.id}"


class LatentStream(IterableDataset[tuple[Latent, int]]):
    """One split of a latent data set, read as it goes; `LatentDataset.stream` makes it, `latent_loader` makes batches.

    As it stands, a `Latent` and its label for each sample, in order, dealt to workers.

    Args:
        root: folder or URL of the data set.
        files: of the split.
        form: what its containers share.
        classes: names in the order of the labels.
        buffer: rows that are held and mixed with each other.
    """

    def __init__(self, root: str, files: SplitFiles, form: LatentFormat, classes: tuple[str, ...], buffer: int):
        if buffer < 1:
            raise DataError(f"A stream mixes one sample or more, not {buffer}.")
        self.root, self.form, self.classes, self.buffer = root, form, classes, buffer
        self._shards, self._samples = files.shards, files.samples
        groups = [
            (number, group, min(ROWS, shard.samples - ROWS * group))
            for number, shard in enumerate(files.shards)
            for group in range(-(-shard.samples // ROWS))
        ]
        self.groups = np.array(groups, np.int64)
        """int64 (groups, 3), shard, number in the shard and rows of each row group."""

    def __len__(self) -> int:
        return self._samples

    def __iter__(self) -> Iterator[tuple[Latent, int]]:
        info = get_worker_info()
        number, workers = (0, 1) if info is None else (info.id, info.num_workers)
        begin, end = (len(self) * part // workers for part in (number, number + 1))
        for row in self.rows(np.arange(len(self.groups)), begin, end):
            yield self.form.latent(row.blob, lambda _, row=row: row.source(), 0), row.label

    def rows(
        self,
        order: np.ndarray,
        begin: int,
        end: int,
        skip: int = 0,
        random: Callable[[int], np.random.Generator] | None = None,
    ) -> Iterator[_Row]:
        """A range of rows, window by window of `buffer` rows.

        Args:
            order: of the row groups.
            begin, end: positions in the rows of all groups in that order.
            skip: how many of the range are left out at its start; windows of which nothing is left are not read.
            random: mixes the rows of a window, given its number; None leaves them in order.
        """
        ends = np.cumsum(self.groups[order, 2])
        held, rows_held = -1, []
        for number in range(skip // self.buffer, -(-(end - begin) // self.buffer)):
            low = begin + number * self.buffer
            high = min(low + self.buffer, end)
            window: list[_Row] = []
            first, last = np.searchsorted(ends, [low, high - 1], "right").tolist()
            for place in range(first, last + 1):
                if place != held:  # two windows may meet within a row group
                    held, rows_held = place, self._read_group(*self.groups[order[place]].tolist())
                start = int(ends[place]) - len(rows_held)
                window += rows_held[max(low - start, 0) : high - start]
            turns = np.arange(len(window)) if random is None else random(number).permutation(len(window))
            for turn in turns[max(skip - number * self.buffer, 0) :].tolist():
                yield window[turn]

    def _read_group(self, shard: int, group: int, count: int) -> list[_Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        expected = self._shards[shard]
        name = f"{self.root}/{expected.file}"
        # Opened here and not before: file systems of object stores do not outlive a fork.
        fs, base = open_root(self.root)
        try:
            with fs.open(f"{base}/{expected.file}", "rb") as file:
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                # Arrow's threads do not outlive a fork either.
                table = parquet.read_row_group(group, ["id", "latent", "label"], use_threads=False)
            labels = label_column(table).tolist()
            blobs, ids = table["latent"].to_pylist(), table["id"].to_pylist()
        except FileNotFoundError as error:
            raise missing(name) from error
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{name} is damaged ({' '.join(str(error).split())[:200]}): fetch it again, or encode it again."
            ) from error
        if len(table) != count:
            raise DataError(f"Row group {group} of {name} has {len(table)} rows, not {count}: encode it again.")
        return [_Row(blob, label, name, key) for blob, label, key in zip(blobs, labels, ids, strict=True)]


def missing(name: str) -> DataError:
    """What to say of a shard that is not there."""
    return DataError(f"{name} is missing: fetch it again, or run the same `cml encode-dataset` again.")


def label_column(table: "pa.Table") -> np.ndarray:
    """int64 (rows,), -1 where there is no label."""
    if "label" not in table.column_names:
        return np.full(len(table), UNLABELLED)
    return table["label"].fill_null(UNLABELLED).to_numpy()


class StreamBatches(IterableDataset[LatentBatch]):
    """A stream as the batches of one process, epoch by epoch, from any position on.

        row groups, in a new order each epoch:  | 7 | 2 | 5 | 0 | 3 | ...     rows one after the other
        cut into a lane a worker:               | rank 0, worker 0 | rank 0, worker 1 | rank 1, worker 0 | ...
        each lane, window by window:            read a row group at a time, mix --> batches

    Batches come from the lanes in turn. Every sample comes once an epoch, but for what `Layout` leaves out; where lanes
    meet in a row group, both read it.

    Args:
        stream: what is read.
        layout: how it is cut.
        workers: processes that read for this one; 0 as in a `DataLoader`.
        pad: as for `collate`.
    """

    def __init__(self, stream: LatentStream, layout: Layout, workers: int, pad: bool):
        self._stream, self._layout, self._pad = stream, layout, pad
        self._full, left = divmod(len(stream), layout.global_batch)
        self._left = left if layout.whole(left) else 0
        self._batches = self._full + (self._left > 0)
        layout.check(self._batches, len(stream))
        self._lanes = max(workers, 1)
        # Epoch and first batch. In shared memory, so that workers which outlive an epoch are told.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self._batches

    def begin(self, epoch: int, samples: int) -> list[int]:
        """As for `EpochOrder.begin`."""
        size = self._layout.global_batch
        first = -(-samples // size)
        self._start.copy_(torch.tensor([epoch, first]))
        return [min((batch + 1) * size, len(self._stream)) for batch in range(first, self._batches)]

    def __iter__(self) -> Iterator[LatentBatch]:
        info, layout = get_worker_info(), self._layout
        epoch, first = self._start.tolist()
        # A DataLoader takes from worker 0 first, so that one reads the lane whose turn it is.
        batch = first + (0 if info is None else info.id)
        if batch >= self._batches:
            return
        turn, lane = divmod(batch, self._lanes)
        begin, end = self._range(lane)
        groups, random = len(self._stream.groups), None
        order = np.arange(groups)
        if layout.shuffle:
            order = layout.random(epoch).permutation(groups)
            random = partial(layout.random, epoch, layout.rank * self._lanes + lane)
        rows = self._stream.rows(order, begin, end, turn * layout.batch_size, random)
        while chosen := list(islice(rows, layout.batch_size)):
            blobs, labels = [row.blob for row in chosen], np.array([row.label for row in chosen])
            yield collate(self._stream.form, blobs, labels, lambda row, of=chosen: of[row].source(), self._pad)

    def _range(self, lane: int) -> tuple[int, int]:
        """Begin and end of a lane in the epoch's order of rows."""
        size = self._layout.batch_size
        sizes = [len(range(number, self._batches, self._lanes)) * size for number in range(self._lanes)]
        before, after = self._layout.share(self._left)
        if self._left:
            sizes[(self._batches - 1) % self._lanes] -= size - (after - before)
        begin = self._layout.rank * self._full * size + before + sum(sizes[:lane])
        return begin, begin + sizes[lane]
