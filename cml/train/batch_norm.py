"""Batch normalization over the batches of all processes, on any device; torch's own `SyncBatchNorm` wants GPUs."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cml.train import processes


class GlobalBatchNorm(_BatchNorm):
    """Normalizes by the mean and variance of the global batch, of which every process has an equal share.

        x (B, c, *S) --> mean, variance (c,) of this share --gather--> of all --> (x - mean) / std * weight + bias

    One exchange of 2 c numbers forward, and one backward.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, input: Tensor) -> Tensor:
        out = self._normalize(input) if self.training else super().forward(input)
        # timm's layers of norm and activation in one
        for name in ("drop", "act"):
            out = getattr(self, name, nn.Identity())(out)
        return out

    def _normalize(self, x: Tensor) -> Tensor:
        y = x.float() if x.element_size() < 4 else x
        variance, mean = torch.var_mean(y, [0, *range(2, y.dim())], correction=0)
        means, variances = processes.gather(torch.stack([mean, variance])[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                size = y.numel() // y.shape[1] * processes.count()
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (size / max(1, size - 1)), share)
        shape = (-1, *[1] * (y.dim() - 2))
        y = (y - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


def normalize_globally(model: nn.Module) -> nn.Module:
    """A model with its batch normalizations exchanged, with the same parameters under the same names."""
    if isinstance(model, _BatchNorm):
        made = GlobalBatchNorm(model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats)
        made.__dict__["_parameters"], made.__dict__["_buffers"] = model._parameters, model._buffers
        made.train(model.training)
    else:
        made = model
    for name, child in list(model.named_children()):
        made.add_module(name, normalize_globally(child))
    return made
