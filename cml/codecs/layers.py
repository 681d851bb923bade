"""Parts that the encoders and decoders share, in 1, 2 or 3 dimensions."""

import torch
from torch import Tensor, nn

from cml.errors import CodecError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def convolution(
    ndim: int, inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1, bias: bool = True
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution of an odd kernel that keeps the grid: (B, inputs, *grid) to (B, outputs, *grid)."""
    return _CONVOLUTIONS[ndim - 1](inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)


class GroupNorm(nn.GroupNorm):
    """Group normalization that also takes one value a group, as on a grid of one position.

    Raises:
        CodecError: the channels do not split into the groups.
    """

    def __init__(self, groups: int, channels: int, eps: float):
        if channels == 0 or channels % groups:
            raise CodecError(
                f"Group normalization needs a multiple of {groups} channels, not {channels}; take another width or "
                "number of levels."
            )
        super().__init__(groups, channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        # The base class refuses one value a group, for which normalization is still defined: it gives the bias.
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
