"""Sizes: padding to the transform's multiple, cropping back, and the latent grid."""

import math

import torch
from torch import Tensor


def grid_shape(size: tuple[int, ...], patch: int) -> tuple[int, ...]:
    """The latent grid of a signal: ceil(size / patch) on every axis."""
    return tuple(math.ceil(n / patch) for n in size)


def pad_to_multiple(x: Tensor, ndim: int, multiple: int) -> Tensor:
    """Repeat the last sample of each of the `ndim` trailing axes up to a multiple.

    A constant continuation has no detail, so what is padded costs next to no bits, at any size >= 1.
    """
    for dim in range(x.dim() - ndim, x.dim()):
        size = x.shape[dim]
        target = math.ceil(size / multiple) * multiple
        if target != size:
            x = x.index_select(dim, torch.arange(target, device=x.device).clamp(max=size - 1))
    return x


def crop(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Keep the first `size` samples of the trailing axes."""
    for dim, n in enumerate(size, start=x.dim() - len(size)):
        x = x.narrow(dim, 0, n)
    return x
