"""Models of sound, one for every view: `SoundNet` tells classes apart, `SeparatorNet` takes mixtures apart."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cml.models.backbones import StemShape

_PERIODS = 6  # of a filter's frequency in its window
_FEW = 8  # filters of a channel, up to which they divide its band evenly
_SLOW = 0.1  # learning rate of the filters, of that of the rest
_FLOOR = 0.01  # energy below which the logarithm is flat; inputs have about unit variance


class FilterBank(nn.Module):
    """A patch convolution that begins as pairs of filters, cosine and sine, and learns slowly what to add to them.

        x (B, c, n) --kernel = stride = patch--> (B, 2 pairs, n / patch), the two of a pair side by side

    Each pair listens to one channel, at one frequency. A channel that many pairs listen to, as of waveforms, holds
    octaves: frequencies are spaced evenly in pitch, with `_PERIODS` periods in a window, somewhere in the patch. One
    with few, as of latents, holds one band, which they divide evenly. From noise, filters learned of a few hundred
    clips fit those clips.

    Args:
        stem: what it reads.
        pairs: of filters.
    """

    start: Tensor

    def __init__(self, stem: StemShape, pairs: int):
        super().__init__()
        self.patch = stem.patch
        self.register_buffer("start", _filters(stem.channels, stem.patch, pairs))
        # In units of `_SLOW`: optimizers of one learning rate then take small steps, and decay leads back to the start.
        self.change = nn.Parameter(torch.zeros(2 * pairs, stem.channels, stem.patch))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.start + _SLOW * self.change, stride=self.patch)


def _filters(channels: int, patch: int, pairs: int) -> Tensor:
    """(2 pairs, channels, patch), each of norm 1."""
    octaves = pairs > _FEW * channels
    filters, made = torch.zeros(2 * pairs, channels, patch), 0
    time = torch.arange(patch) + 0.5
    for channel, count in enumerate(_shares(channels, patch, pairs, octaves)):
        for number in range(count):
            if octaves:
                cycles = 0.5 * (1 / patch) ** (1 - number / count)  # a position
                length = _PERIODS / cycles
            else:
                cycles, length = 0.5 * (number + 0.5) / count, 4.0 * count
            length = min(patch, max(4.0, length))
            centre = length / 2 + (patch - length) * float(torch.rand(()))
            window = torch.cos(math.pi * ((time - centre) / length).clamp(-0.5, 0.5)) ** 2
            phase = 2 * math.pi * cycles * (time - centre)
            filters[made, channel] = F.normalize(phase.cos() * window, dim=0)
            filters[made + 1, channel] = F.normalize(phase.sin() * window, dim=0)
            made += 2
    return filters


def _shares(channels: int, patch: int, pairs: int, octaves: bool) -> list[int]:
    """Pairs of each channel: alike of waveforms; of latents more of the first, which hold the low sounds."""
    shares = [0] * channels
    for _ in range(pairs):
        few = [c for c in range(channels) if octaves or shares[c] < patch] or range(channels)
        shares[max(few, key=lambda c: (1 if octaves else 1 / (c + 2)) / (shares[c] + 1))] += 1
    return shares


class SoundBlock(nn.Module):
    """x + (dilated convolution, 1x1 convolution), batch-normalized."""

    def __init__(self, width: int, dilation: int = 1, kernel: int = 3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Conv1d(width, width, 1, bias=False),
            nn.BatchNorm1d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SoundNet(nn.Module):
    """The default classifier of sound.

        input (c, n) --patch filters--> pairs --log energy--> (64, tokens) --block--> 48 --halve, block--> 64
          --halve, block--> (96, tokens / 4) --mean and maximum over time--> classes

    The energy of a pair is what a filter hears, wherever its wave begins in the patch; the filters alone would know
    only that. Whole channels of energies are dropped in training: sounds are told apart by many bands.
    """

    def __init__(self, stem: StemShape, num_classes: int, pairs: int = 64, widths: tuple[int, ...] = (48, 64, 96)):
        super().__init__()
        self.stem = FilterBank(stem, pairs)
        self.norm = nn.BatchNorm1d(pairs)
        self.drop = nn.Dropout1d(0.2)
        layers: list[nn.Module] = []
        for place, (before, width) in enumerate(zip((pairs, *widths), widths, strict=False)):
            kernel, stride, padding = (4, 2, 2) if place else (1, 1, 0)
            layers += [
                nn.Conv1d(before, width, kernel, stride, padding, bias=False),
                nn.BatchNorm1d(width),
                SoundBlock(width),
            ]
        self.body = nn.Sequential(*layers)
        self.head = (
            nn.Sequential(nn.Dropout(0.1), nn.Linear(2 * widths[-1], num_classes)) if num_classes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        energies = (self.stem(x).unflatten(1, (-1, 2)).square().sum(2) + _FLOOR).log()
        h = self.body(self.drop(self.norm(energies)))
        return self.head(torch.cat((h.mean(2), h.amax(2)), 1))


class SeparatorNet(nn.Module):
    """The default separator.

        mixture (c, n) --patch convolution--> features (K, tokens) --log energy, dilated blocks of 64--> S masks
        masks * features --patch transposed convolution--> stems (S c, n)

    Any length will do. Between its two ends it is the same for every view; these are larger where a patch has more
    values, as of waveforms. They begin as each other's inverse, and all masks at one half, so that the first answer is
    the mixture.

    Args:
        stem: what it reads.
        stems: S.
        features: K, of a patch; as many as it has samples, so that waveforms pass.
        width: of the blocks.
        dilations: of the blocks, one each.
    """

    def __init__(
        self,
        stem: StemShape,
        stems: int,
        features: int = 256,
        width: int = 64,
        dilations: tuple[int, ...] = (1, 3, 9, 27),
    ):
        super().__init__()
        self.stems, self.patch = stems, stem.patch
        self.stem = nn.Conv1d(stem.channels, features, stem.patch, stem.patch, bias=False)
        self.norm = nn.BatchNorm1d(features)
        self.mix = nn.Conv1d(features, width, 1)
        self.body = nn.Sequential(*[SoundBlock(width, dilation) for dilation in dilations])
        self.masks = nn.Conv1d(width, stems * features, 1)
        self.head = nn.ConvTranspose1d(features, stem.channels, stem.patch, stem.patch, bias=False)
        nn.init.orthogonal_(self.stem.weight)
        nn.init.zeros_(self.masks.weight)
        with torch.no_grad():
            self.head.weight.copy_(self.stem.weight)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[2]
        features = self.stem(F.pad(x, (0, -length % self.patch)))
        energies = (features.square() + _FLOOR).log()
        masks = self.masks(self.body(self.mix(self.norm(energies)))).unflatten(1, (self.stems, -1)).sigmoid()
        sound = self.head((masks * features[:, None]).flatten(0, 1))
        return sound.unflatten(0, (-1, self.stems)).flatten(1, 2)[..., :length]
