"""Random crops of signals for training codecs: which crop comes when is a function of the seed alone."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cml.codecs.base import CodecSpec, check_signal
from cml.codecs.geometry import pad_to_multiple
from cml.errors import DataError

_RESIZE = ("linear", "bilinear", "trilinear")


class Crops:
    """Crops of signals that are held in memory, in their integer type.

    Sample i of iteration n is the same on every machine, at any batch size and after any interruption. A signal is
    drawn with a probability that grows with the square root of its size, its flips and, in two dimensions, its
    transposition with equal probabilities.

    Args:
        signals: (C, *S), uint8, uint16 or float in [-1, 1].
        size: of a crop, a side or one number an axis; a signal that is smaller continues its last samples.
        scales: each signal also enters at these sizes (antialiased), so that objects come large and small.
        seed: of everything drawn.
    """

    def __init__(
        self, signals: Sequence[Tensor], size: int | Sequence[int], scales: Sequence[float] = (1.0,), seed: int = 0
    ):
        if not signals:
            raise DataError("There is nothing to train on: the list of signals is empty.")
        axes = signals[0].dim() - 1
        self.size = (size,) * axes if isinstance(size, int) else tuple(size)
        self.seed = seed
        signals = [signal if signal.dtype == torch.uint8 else _as_float(signal) for signal in signals]
        self.signals = [_scaled(signal, scale, self.size) for signal in signals for scale in scales]
        weights = torch.tensor([float(signal[0].numel()) for signal in self.signals]).sqrt()
        self._cumulative = (weights / weights.sum()).cumsum(0)

    def sample(self, iteration: int, index: int) -> Tensor:
        """(C, *size) float32 in [-1, 1]."""
        entropy = (self.seed, abs(iteration), int(iteration < 0), index)
        state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        drawn = torch.rand(1, generator=generator)
        x = self.signals[min(int(torch.searchsorted(self._cumulative, drawn)), len(self.signals) - 1)]
        for dim, size in enumerate(self.size, start=1):
            start = int(torch.randint(x.shape[dim] - size + 1, (1,), generator=generator))
            x = x.narrow(dim, start, size)
        flips = [dim for dim in range(1, x.dim()) if torch.rand(1, generator=generator) < 0.5]
        x = x.flip(flips) if flips else x
        if x.dim() == 3 and torch.rand(1, generator=generator) < 0.5:
            x = x.mT
        return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()

    def batch(self, iteration: int, indices: Sequence[int]) -> Tensor:
        """(len(indices), C, *size)."""
        return torch.stack([self.sample(iteration, index) for index in indices])


def _as_float(signal: Tensor) -> Tensor:
    return check_signal(signal, CodecSpec("training", signal.dim() - 1, (len(signal),)))[0]


def _scaled(signal: Tensor, scale: float, size: tuple[int, ...]) -> Tensor:
    if scale != 1:
        target = [max(1, round(n * scale)) for n in signal.shape[1:]]
        mode, antialias = _RESIZE[signal.dim() - 2], signal.dim() == 3
        x = F.interpolate(signal[None].float(), target, mode=mode, antialias=antialias)[0]
        signal = x.round().clamp(0, 255).to(torch.uint8) if signal.dtype == torch.uint8 else x
    fits = all(n >= least for n, least in zip(signal.shape[1:], size, strict=True))
    return signal if fits else pad_to_multiple(signal, signal.dim() - 1, size)
