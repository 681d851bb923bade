"""Models of spectra: a class for each pixel of a cell, from the values of that cell alone.

    values of cells (B, c, *grid) --tokens of `patch` positions--> features --> logits (B, K, *pixels)

None looks beyond its token, so cells that are apart stay apart. `SpectralNet` is a small network, `KernelMachine` a
support vector machine of scikit-learn, kept as tensors.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cml.errors import CmlError
from cml.models.backbones import StemShape

MODELS = ("cml:spectral", "sklearn:svm")
_TOKENS_AT_ONCE = 2048  # whose kernel is in memory


def build_spectral(name: str, stem: StemShape, classes: int, cell: int) -> tuple[nn.Module, str]:
    """A model by name, one of `MODELS`, and the path of its stem.

    Args:
        name: the model.
        stem: what it reads, a map.
        classes: K.
        cell: pixels of the signal along each axis behind a token, for each of which there is an answer.
    """
    if name == "cml:spectral":
        return SpectralNet(stem, classes, cell), "stem"
    if name == "sklearn:svm":
        return KernelMachine(stem, classes, cell), "stem"
    raise CmlError(f"Unknown backbone {name!r}: the task hyperspectral has {' and '.join(MODELS)}.")


class Standardize(nn.Module):
    """(x - mean of each channel) / one scale for all channels: bands of little energy stay small."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(()))

    def learn(self, x: Tensor) -> None:
        """From training samples (B, c, *grid)."""
        flat = x.transpose(0, 1).flatten(1)
        self.mean.copy_(flat.mean(1))
        self.scale.copy_((flat - self.mean[:, None]).square().mean().sqrt().clamp(min=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.view(-1, 1, 1)) / self.scale


class SpectralNet(nn.Module):
    """The default: what a token holds, through a perceptron.

        x (B, c, *grid) --standardize, patch convolution--> (width, tokens) --residual blocks--> h
          h --> one answer for the whole token, plus a correction of each of its pixels, zero at first

    Args:
        stem: what it reads.
        classes: K.
        cell: pixels along each axis behind a token.
        width: of all layers.
    """

    def __init__(self, stem: StemShape, classes: int, cell: int, width: int = 128):
        super().__init__()
        self.standardize = Standardize(stem.channels)
        self.stem = nn.Conv2d(stem.channels, width, stem.patch, stem.patch)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
            for _ in range(2)
        )
        self.answer = nn.Conv2d(width, classes, 1)
        self.correct = nn.Conv2d(width, classes * cell**2, 1, bias=False)
        self.cell = cell
        nn.init.zeros_(self.correct.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(self.standardize(x)))
        for block in self.body:
            h = h + block(h)
        whole = self.answer(F.relu(h)).repeat_interleave(self.cell, 2).repeat_interleave(self.cell, 3)
        return whole + F.pixel_shuffle(self.correct(F.relu(h)), self.cell)


class Gather(nn.Module):
    """The values of each token side by side: (B, c, *grid) to (B, c patch^2, *tokens)."""

    def __init__(self, patch: int):
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.patch)


class KernelMachine(nn.Module):
    """A support vector machine with a radial kernel; it knows where in its cell a pixel lies.

        k(a, b) = exp(-gamma |a - b|^2 / d), times exp(-apart) where the places in the cell differ

    Features a of d values are those of the token, standardized. Classes are told apart pair by pair, and the pairs
    vote.

    Args:
        stem: what it reads.
        classes: K.
        cell: pixels along each axis behind a token.
    """

    vectors: Tensor
    places: Tensor
    weights: Tensor
    bias: Tensor
    gamma: Tensor
    apart: Tensor

    def __init__(self, stem: StemShape, classes: int, cell: int):
        super().__init__()
        self.standardize = Standardize(stem.channels)
        self.stem, self.cell, self.classes = Gather(stem.patch), cell, classes
        self.pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
        dimensions = stem.channels * stem.patch**2
        self.register_buffer("vectors", torch.zeros(1, dimensions))
        self.register_buffer("places", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(len(self.pairs), 1))
        self.register_buffer("bias", torch.zeros(len(self.pairs)))
        self.register_buffer("gamma", torch.ones(()))
        self.register_buffer("apart", torch.zeros(()))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        # There are as many support vectors as there were.
        for name in ("vectors", "places", "weights"):
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.zeros_like(stored))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def learn(self, x: Tensor, labels: Tensor, valid: Tensor, valid_labels: Tensor) -> float:
        """Fit it, with the kernel and the cost that do best on a validation split; returns their accuracy there.

        Args:
            x, valid: (B, c, *grid) whole cells of one token each.
            labels, valid_labels: (B, cell, cell), 255 where nothing counts.
        """
        from sklearn.svm import SVC

        self.standardize.learn(x)
        a, at, y = self._samples(x, labels)
        b, bt, z = self._samples(valid, valid_labels)
        near, far, best = _squares(a, a), _squares(b, a), (-1.0, 0.0, 0.0, 0.0)
        same, across = at[:, None] == at, bt[:, None] == at
        parted = (0.0, 0.5) if self.cell > 1 else (0.0,)

        def kernel(squares: Tensor, together: Tensor, gamma: float, apart: float) -> np.ndarray:
            return (-gamma * squares - apart * ~together).exp().numpy().astype(np.float64)

        for gamma in (0.5, 2.0, 8.0):
            for apart in parted:
                k, test = kernel(near, same, gamma, apart), kernel(far, across, gamma, apart)
                for cost in (10.0, 100.0, 1000.0):
                    made = SVC(C=cost, kernel="precomputed", cache_size=500).fit(k, y)
                    best = max(best, (float((made.predict(test) == z.numpy()).mean()), gamma, apart, cost))
        accuracy, gamma, apart, cost = best
        made = SVC(C=cost, kernel="precomputed", cache_size=500).fit(kernel(near, same, gamma, apart), y)
        support = torch.from_numpy(made.support_).long()
        self.vectors, self.places = a[support], at[support]
        self.gamma.fill_(gamma)
        self.apart.fill_(apart)
        self.weights, self.bias = self._pairwise(made)
        return accuracy

    def _samples(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, d), places (N,) and labels (N,) of the labelled pixels of cells."""
        features = self.stem(self.standardize(x)).flatten(1)
        cells, down, right = (labels != 255).nonzero(as_tuple=True)
        return features[cells], down * self.cell + right, labels[cells, down, right].long()

    def _pairwise(self, made: Any) -> tuple[Tensor, Tensor]:
        """Of each pair of classes, the weights of the support vectors and the bias; positive: the first of the two.

        Pairs with a class that no training pixel has are zero.
        """
        weights = torch.zeros(len(self.pairs), len(made.support_))
        bias = torch.zeros(len(self.pairs))
        coefficients = torch.from_numpy(np.asarray(made.dual_coef_)).float()
        owner = np.repeat(np.arange(len(made.classes_)), made.n_support_)
        if len(made.classes_) == 2:  # scikit-learn turns the sign of a single pair
            coefficients, intercepts = -coefficients, -made.intercept_
        else:
            intercepts = made.intercept_
        number = 0
        for i, first in enumerate(made.classes_):
            for j in range(i + 1, len(made.classes_)):
                pair = self.pairs.index((int(first), int(made.classes_[j])))
                weights[pair, owner == i] = coefficients[j - 1, owner == i]
                weights[pair, owner == j] = coefficients[i, owner == j]
                bias[pair] = float(intercepts[number])
                number += 1
        return weights, bias

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(self.standardize(x))
        batch, _, height, width = features.shape
        flat = features.permute(0, 2, 3, 1).flatten(0, 2)
        places = []
        for place in range(self.cell**2):
            shared = torch.where(self.places == place, 0.0, -self.apart).exp()
            places.append((self.weights * shared).T)
        turns = torch.cat(places, 1)
        votes = torch.cat([self._votes(part, turns) for part in flat.split(_TOKENS_AT_ONCE)])
        votes = votes.view(batch, height, width, self.cell**2, self.classes).permute(0, 4, 3, 1, 2)
        return F.pixel_shuffle(votes.flatten(1, 2), self.cell)

    def _votes(self, features: Tensor, turns: Tensor) -> Tensor:
        """(N, d) to (N, places, K): pairs that a class wins, and less than one more by how clearly."""
        kernel = (-self.gamma * _squares(features, self.vectors)).exp()
        margins = (kernel @ turns).view(len(features), self.cell**2, -1) + self.bias
        signs = torch.zeros(len(self.pairs), self.classes)
        for pair, (i, j) in enumerate(self.pairs):
            signs[pair, i], signs[pair, j] = 1.0, -1.0
        votes, sums = margins.sign() @ signs, margins @ signs
        return votes + sums / (sums.abs() + 1) / 2


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """(N, d) and (M, d) to their squared distances (N, M), a value."""
    products = torch.addmm(b.square().sum(1)[None], a, b.T, alpha=-2)
    return (products + a.square().sum(1)[:, None]).clamp_(min=0) / math.prod(a.shape[1:])
