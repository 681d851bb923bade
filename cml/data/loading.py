"""Stored latents to batches on the training device: what lies on disk is what a model reads, no decoder runs.

LatentDataset, LatentFolder, LatentShards --worker: read, check, entropy-decode--> LatentBatch, int8 (B, c, *grid)
  --pinned, to the device as int8--> LatentBatch.to_float: float32 (B, c, *grid)

data = LatentDataset("latents")
loader = latent_loader(data, 64, shuffle=True, workers=2, device="cuda")
for batch in loader:
    logits = model(batch.to_float("cuda"))
torch.save(loader.state_dict(), "position.pt")
"""

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Literal, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from cml.data.batches import LatentBatch
from cml.data.latent_stream import LatentStream, StreamBatches
from cml.data.order import EpochOrder, Layout
from cml.data.stored import StoredLatents
from cml.errors import CmlError, DataError

Sizes = Literal["same", "pad", "bucket"]


def latent_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool = False,
    workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
    drop_last: bool = False,
    sizes: Sizes = "same",
    rank: int | None = None,
    world: int | None = None,
) -> "LatentLoader":
    """A `DataLoader` of `LatentBatch`es on the CPU, pinned where the device is a GPU.

    Each of several processes makes a loader of its own with the same arguments, and gets its part of every global batch
    (`batch_size` x `world` samples); `Layout` says how. For all but a stream the global batches are a function of the
    seed and the epoch, whatever the numbers of processes and workers.

    Args:
        dataset: a `LatentDataset`, `LatentFolder` or `LatentShards`, a `torch.utils.data.Subset` of one, the `stream`
            of a `LatentDataset`, or anything map-style whose `__getitems__` makes a batch.
        batch_size: signals a batch, of this process.
        shuffle: a new order each epoch.
        workers: processes that read and entropy-decode, of one torch thread each; they live as long as the loader.
        device: where the batches will go.
        seed: of the order.
        drop_last: leave out a last global batch that is smaller.
        sizes: what to do with latents of different grids: "same" refuses a batch of them; "pad" puts zeros after the
            end of smaller ones (`LatentBatch.mask`); "bucket" makes batches of one grid each, and is not for streams.
        rank, world: this process and how many there are; as `torch.distributed` has it, or one process.

    Raises:
        DataError: the arguments do not fit, the samples make no batch, or a shard of a `LatentDataset` is damaged.
    """
    rank, world = _process(rank, world)
    if workers < 0:
        raise DataError(f"A loader has no worker or some, not {workers}.")
    if sizes not in ("same", "pad", "bucket"):
        raise DataError(f'Latents of different sizes: "same", "pad" or "bucket", not {sizes!r}.')
    layout = Layout(batch_size, shuffle, seed, drop_last, rank, world)
    order = {"seed": seed, "shuffle": shuffle, "sizes": sizes, "global_batch": layout.global_batch}
    if isinstance(dataset, LatentStream):
        if sizes == "bucket":
            raise DataError('A stream cannot sort samples by size: take sizes="pad", or the data set itself.')
        order |= {"kind": "stream", "count": len(dataset), "world": world, "workers": workers, "buffer": dataset.buffer}
        batches = StreamBatches(dataset, layout, workers, pad=sizes == "pad")
        return LatentLoader(batches, batches, order, workers, device)
    count = len(cast(Sized, dataset))
    stored, chosen = _unwrap(dataset)
    buckets = None
    if stored is None and sizes != "same":
        raise DataError(f"sizes={sizes!r} is for stored latents, not for a {type(dataset).__name__}.")
    if stored is not None:
        stored.load()
        if sizes == "pad":
            dataset = _Padded(stored, chosen)
        elif sizes == "bucket":
            buckets = np.unique(stored.grids()[chosen], axis=0, return_inverse=True)[1].reshape(-1)
    order |= {"kind": "samples", "count": count}
    return LatentLoader(dataset, EpochOrder(layout, count, buckets), order, workers, device)


class LatentLoader(DataLoader[LatentBatch]):
    """A `DataLoader` that knows where it is; `latent_loader` makes it.

    Each `for` goes through one epoch: the next one, also where the last was left early. After `load_state_dict` it goes
    through what is left of the epoch of the state. `len(loader)` is the number of batches of a whole epoch, the same on
    every process.

    Args:
        dataset: what workers read.
        order: the batches of an epoch.
        settings: what the order is a function of; a state of other settings is refused.
        workers, device: as for `latent_loader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: EpochOrder | StreamBatches,
        settings: Mapping[str, Any],
        workers: int,
        device: str | torch.device,
    ):
        self._order, self._settings = order, dict(settings)
        self._epoch, self._samples, self._begun = 0, 0, False
        super().__init__(
            dataset,
            batch_size=1 if isinstance(order, EpochOrder) else None,
            batch_sampler=order if isinstance(order, EpochOrder) else None,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=torch.device(device).type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(0),  # of the workers' own seeds, which nothing here draws from
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[LatentBatch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._begun:
            self._epoch, self._samples = self._epoch + 1, 0
        self._begun = True
        return self._counted(self._order.begin(self._epoch, self._samples), super().__iter__())

    def _counted(self, ends: Sequence[int], batches: Iterator[LatentBatch]) -> Iterator[LatentBatch]:
        try:
            for self._samples, batch in zip(ends, batches, strict=True):
                yield batch
        except CmlError as error:
            if not self.num_workers:
                raise
            # A worker's error comes with the text of its traceback; the sentence is at its end.
            kind = type(error)
            raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__name__}: ")[2].strip()) from error
        self._epoch, self._samples, self._begun = self._epoch + 1, 0, False

    def state_dict(self) -> dict[str, Any]:
        """The position: `epoch`, `samples` that all processes together have been given in it, and the settings."""
        return {"epoch": self._epoch, "samples": self._samples, **self._settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position, in the middle of an epoch too; what lies before it is neither read nor decoded.

        All but a stream go on with another number of workers or processes as well, where the global batch is the same.

        Raises:
            DataError: the state is that of another order.
        """
        epoch, samples = state.get("epoch"), state.get("samples")
        if not isinstance(epoch, int) or not isinstance(samples, int):
            raise DataError("This is no position of a loader: it has no epoch or no samples.")
        for name, mine in self._settings.items():
            if (theirs := state.get(name)) != mine:
                raise DataError(
                    f"The position belongs to a loader with {name} {theirs!r}, this one has {mine!r}: make it as that "
                    "one was made, or begin anew."
                )
        self._epoch, self._samples, self._begun = epoch, samples, False


class _Padded(Dataset[Any]):
    """Some of a data set's items, in batches that take different grids."""

    def __init__(self, stored: StoredLatents, chosen: np.ndarray):
        self.stored, self.chosen = stored, chosen

    def __getitems__(self, indices: Sequence[int]) -> LatentBatch:
        return self.stored.batch(self.chosen[list(indices)].tolist(), pad=True)


def _unwrap(dataset: Dataset[Any]) -> tuple[StoredLatents | None, np.ndarray]:
    """The stored latents that subsets of subsets lead to, if so, and which of them are chosen."""
    chosen = np.arange(len(cast(Sized, dataset)))
    while isinstance(dataset, Subset):
        chosen, dataset = np.asarray(dataset.indices, np.int64)[chosen], dataset.dataset
    return (dataset if isinstance(dataset, StoredLatents) else None), chosen


def _process(rank: int | None, world: int | None) -> tuple[int, int]:
    if (rank is None) != (world is None):
        raise DataError("A loader is told both `rank` and `world`, or neither.")
    if rank is not None and world is not None:
        return rank, world
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _as_is(batch: Any) -> Any:
    return batch
