"""Strides on grids that are too small for them: latents leave a model less to shrink than pixels do."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@torch.no_grad()
def unstride(model: nn.Module, stem: str, x: Tensor, window: int = 1) -> tuple[str, ...]:
    """Take the stride out of every layer that would leave, along an axis, less than a window, or no whole ones.

        (B, C, 1, 4) --convolution 2x2, stride 2--> nothing becomes --convolution 1x2, stride 1x2--> (B, C', 1, 2)

    The grid stays as it is there: a kernel that would shrink it, of stride 1, is cut to its middle.

    Args:
        model: changed in place.
        stem: path of the layer that is left alone.
        x: (B, c, *grid), an input.
        window: positions along each axis that the model divides every grid into.

    Returns:
        The paths of the layers that have lost a stride.
    """
    changed: list[str] = []
    hooks = [
        module.register_forward_pre_hook(partial(_fit, path, changed, window))
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, *_POOLS)) and path != stem and not path.startswith(stem + ".")
    ]
    try:
        model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(dict.fromkeys(changed))


def _fit(path: str, changed: list[str], window: int, module: Any, inputs: tuple[Tensor, ...]) -> None:
    size = inputs[0].shape[-2:]
    stride, kernel = _pair(module.stride), _pair(module.kernel_size)
    small = [s > 1 and (n < s * window or n // s % window > 0) for n, s in zip(size, stride, strict=True)]
    if not any(small):
        return
    changed.append(path)
    fitting = kernel
    if not _pads_to_size(module):
        # Of stride 1, a kernel one longer than what is padded keeps the grid.
        longest = [2 * pad + 1 for pad in _pair(module.padding)]
        fitting = tuple(min(k, n) if s else k for k, n, s in zip(kernel, longest, small, strict=True))
    if isinstance(module, nn.Conv2d) and fitting != kernel:
        rows, columns = ((k - f) // 2 for k, f in zip(kernel, fitting, strict=True))
        weight = module.weight[..., rows : rows + fitting[0], columns : columns + fitting[1]]
        module.weight = nn.Parameter(weight.clone())
    module.kernel_size = fitting
    module.stride = tuple(1 if s else n for n, s in zip(stride, small, strict=True))


def _pads_to_size(module: Any) -> bool:
    return isinstance(module.padding, str) or type(module).__name__.endswith("Same")  # timm's, padded as they go


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
