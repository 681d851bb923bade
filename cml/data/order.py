"""Which samples make which batch: a function of the seed and the epoch, dealt to processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from cml.errors import DataError


@dataclass(frozen=True)
class Layout:
    """How an epoch is cut into batches.

        samples in the epoch's order:  | global batch 0        | global batch 1        | ... | what is left |
        dealt to processes:            | rank 0 | rank 1 | ... | rank 0 | rank 1 | ... |     | evenly       |

    What is left at the end is dealt evenly, so that all processes see equally many batches; sizes then differ by at
    most one. Fewer samples than processes are left out of the epoch, and with `drop_last` all of them.

    Attributes:
        batch_size: samples a batch of one process.
        shuffle: a new order each epoch.
        seed: of the orders.
        drop_last: leave out a last global batch that is not full.
        rank, world: this process and how many there are.
    """

    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    rank: int
    world: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"A batch has one sample or more, not {self.batch_size}.")
        if not 0 <= self.rank < self.world:
            raise DataError(f"Ranks count from 0 to world - 1: {self.rank} is none of {self.world} processes.")

    @property
    def global_batch(self) -> int:
        """Samples of all processes together that make one step."""
        return self.batch_size * self.world

    def random(self, epoch: int, *parts: int) -> np.random.Generator:
        """The random numbers of one part of one epoch."""
        return np.random.default_rng([self.seed % 2**64, epoch, *parts])

    def share(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """Begin and end of what one process (None: this one) gets of `count` samples."""
        rank = self.rank if rank is None else rank
        return count * rank // self.world, count * (rank + 1) // self.world

    def whole(self, counts: Any) -> Any:
        """Whether global batches of so many samples, a number or an array of them, are taken."""
        return counts >= (self.global_batch if self.drop_last else self.world)

    def check(self, batches: int, count: int) -> None:
        """Raise a `DataError` where `count` samples make no batch."""
        if not batches:
            raise DataError(
                f"{count} samples make no batch of {self.batch_size} on each of {self.world} processes: take a smaller "
                "batch_size, or drop_last=False."
            )


class EpochOrder(Sampler[list[int]]):
    """The batches of a map-style data set for one process, epoch by epoch, from any position on.

    Global batch b holds the positions from b * global_batch on of the epoch's order, whatever the number of processes.
    In buckets, samples of one bucket follow each other in the epoch's order and fill batches of their own; these are
    shuffled, or, without `shuffle`, come in the order of their first samples.

    Args:
        layout: how the order is cut.
        count: samples.
        buckets: int (N,), the bucket of each sample; None for one.
    """

    def __init__(self, layout: Layout, count: int, buckets: np.ndarray | None = None):
        self._layout, self._count, self._buckets = layout, count, buckets
        sizes = [count] if buckets is None else np.bincount(buckets)
        full, left = np.divmod(np.asarray(sizes), layout.global_batch)
        self._batches = int(full.sum() + layout.whole(left).sum())
        layout.check(self._batches, count)
        self.begin(0, 0)

    def __len__(self) -> int:
        return self._batches

    def begin(self, epoch: int, samples: int) -> list[int]:
        """Set where iteration starts: after the first `samples` samples of an epoch, all processes together.

        Returns:
            For each batch that is to come, how many samples of the epoch will be seen with it.
        """
        order, spans = self._cut(epoch)
        self._order, self._spans = order, spans[spans[:, 0] >= samples]
        return self._spans[:, 1].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order
        for begin, end in self._spans.tolist():
            first, last = self._layout.share(end - begin)
            yield order[begin + first : begin + last].tolist()

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch (N,), and begin and end of its global batches (batches, 2)."""
        layout, random = self._layout, self._layout.random(epoch)
        order = random.permutation(self._count) if layout.shuffle else np.arange(self._count)
        if self._buckets is None:
            spans = _spans(0, self._count, layout.global_batch)
        else:
            order = order[np.argsort(self._buckets[order], kind="stable")]
            edges = np.cumsum([0, *np.bincount(self._buckets)])
            spans = np.concatenate([_spans(*edge, layout.global_batch) for edge in pairwise(edges)])
            turns = random.permutation(len(spans)) if layout.shuffle else np.argsort(order[spans[:, 0]])
            order = np.concatenate([order[begin:end] for begin, end in spans[turns]])
            ends = np.cumsum((spans[:, 1] - spans[:, 0])[turns])
            spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)
        return order, spans[layout.whole(spans[:, 1] - spans[:, 0])]


def _spans(begin: int, end: int, size: int) -> np.ndarray:
    begins = np.arange(begin, end, size)
    return np.stack([begins, np.minimum(begins + size, end)], 1)
