"""One short training loop: AdamW, warm-up and cosine decay, gradient clipping."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; a part of every result's key.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples a step.
        lr: peak learning rate of AdamW, reached after `warmup` of all steps, then cosine to zero.
        warmup: share of the steps.
        weight_decay: on weights of two dimensions or more.
        clip: largest norm of the gradient.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 2e-3
    warmup: float = 0.15
    weight_decay: float = 0.05
    clip: float = 1.0

    def factor(self, step: int, total: int) -> float:
        """Share of the peak learning rate at a step, counted from 0, of `total`."""
        return warmup_cosine(step, max(1, round(self.warmup * total)), total)

    def optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """AdamW at the peak learning rate; what has one dimension (biases, norms) does not decay."""
        decay = [p for p in model.parameters() if p.dim() >= 2]
        plain = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr)


def warmup_cosine(step: int, warm: int, total: int) -> float:
    """A linear rise over `warm` steps to 1, then a cosine to zero, at a step counted from 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, total - warm))


@dataclass(frozen=True)
class TrainingTime:
    """What a training took: samples seen and seconds spent, without the first (warm-up) epoch where there are more."""

    samples: int
    seconds: float

    @property
    def rate(self) -> float:
        """Samples a second: batches from memory, augmentation, forward, backward and update together."""
        return self.samples / self.seconds if self.seconds else math.nan


def fit(
    model: nn.Module,
    epoch_batches: Callable[[int], Iterable[tuple[Tensor, ...]]],
    steps_per_epoch: int,
    loss: Callable[..., Tensor],
    recipe: Recipe,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> TrainingTime:
    """Train a model in place and leave it in eval mode.

    Args:
        model: what is trained.
        epoch_batches: epoch -> its batches, each a tuple of tensors.
        steps_per_epoch: how many batches an epoch has.
        loss: (model, *batch) -> scalar.
        recipe: optimizer settings.
        on_epoch: called after each epoch with its number and mean loss.
    """
    optimizer = recipe.optimizer(model)
    total = recipe.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.factor(step, total))
    samples, seconds = 0, 0.0
    for epoch in range(recipe.epochs):
        model.train()
        start, seen, losses = time.perf_counter(), 0, []
        for batch in epoch_batches(epoch):
            value = loss(model, *batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            seen += len(batch[0])
            losses.append(value.detach())
        mean_loss = float(torch.stack(losses).mean())
        if epoch or recipe.epochs == 1:
            samples += seen
            seconds += time.perf_counter() - start
        on_epoch(epoch, mean_loss)
    model.eval()
    return TrainingTime(samples, seconds)
