"""Sizes: padding to the transform's multiple, cropping back, and the latent grid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def grid_shape(size: Sequence[int], cell: int | Sequence[int]) -> tuple[int, ...]:
    """The latent grid of a signal: ceil(size / cell) on every axis, `cell` being one number or one an axis."""
    return tuple(math.ceil(n / m) for n, m in zip(size, _each_axis(cell, len(size)), strict=True))


def pad_to_multiple(x: Tensor, ndim: int, multiple: int | Sequence[int]) -> Tensor:
    """Repeat the last sample of each of the `ndim` trailing axes up to a multiple, one number or one an axis.

    A constant continuation has no detail, so what is padded costs next to no bits, at any size >= 1.
    """
    for dim, of in enumerate(_each_axis(multiple, ndim), start=x.dim() - ndim):
        size = x.shape[dim]
        target = math.ceil(size / of) * of
        if target != size:
            x = x.index_select(dim, torch.arange(target, device=x.device).clamp(max=size - 1))
    return x


def _each_axis(number: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    return (number,) * ndim if isinstance(number, int) else tuple(number)


def crop(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Keep the first `size` samples of the trailing axes."""
    for dim, n in enumerate(size, start=x.dim() - len(size)):
        x = x.narrow(dim, 0, n)
    return x
