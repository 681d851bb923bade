"""Scores of label maps: confusion matrices, intersection over union, and boundaries."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cml.data.segmentation import VOID


def confusion_matrix(truth: Tensor, answer: Tensor, classes: int) -> np.ndarray:
    """int64 (classes, classes): pixels of each true class (row) that were given each class (column).

    Args:
        truth: (...) labels, with `VOID` where nothing counts.
        answer: labels below `classes`, of the same shape.
        classes: K.
    """
    valid = truth != VOID
    pairs = truth[valid].long() * classes + answer[valid].long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).numpy()


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """(..., K, K) to (..., K): pixels of a class that are called so, over those of or called it; NaN for none."""
    both = np.diagonal(confusion, axis1=-2, axis2=-1)
    either = confusion.sum(-1) + confusion.sum(-2) - both
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """(..., K, K) to (...): mean of `class_iou` over the classes that are in the truth or the answer; NaN for none."""
    iou = class_iou(confusion)
    present = np.isfinite(iou)
    count = present.sum(-1)
    total = np.where(present, iou, 0).sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def boundary_f1(truth: Tensor, answer: Tensor, classes: int, tolerance: int) -> float:
    """How well boundaries lie (Csurka et al., 2013), mean over the classes of one picture; NaN without any boundary.

    A class's boundary are its pixels with one of another class among their four neighbours. Precision is the share of
    the answer's boundary within the tolerance of the true one, recall the reverse; boundaries towards void count not.

    Args:
        truth, answer: (H, W) labels.
        classes: K.
        tolerance: pixels along each axis (a square, where the paper has a disc).
    """
    void = truth == VOID
    true, given = (_boundaries(labels.long(), void, classes) for labels in (truth, answer))
    present = (true.flatten(1).any(1) | given.flatten(1).any(1)).nonzero()[:, 0]
    if not len(present):
        return float("nan")
    true, given = true[present].float(), given[present].float()
    precision, recall = _share_near(given, true, tolerance), _share_near(true, given, tolerance)
    total = precision + recall
    return float(torch.where(total > 0, 2 * precision * recall / total.clamp(min=1e-9), 0).mean())


def _boundaries(labels: Tensor, void: Tensor, classes: int) -> Tensor:
    """bool (classes, H, W)."""
    edge = torch.zeros_like(void)
    for axis in (0, 1):
        length = labels.shape[axis] - 1
        first, second = (labels.narrow(axis, start, length) for start in (0, 1))
        differ = (first != second) & ~void.narrow(axis, 0, length) & ~void.narrow(axis, 1, length)
        edge.narrow(axis, 0, length).logical_or_(differ)
        edge.narrow(axis, 1, length).logical_or_(differ)
    return (labels == torch.arange(classes)[:, None, None]) & edge


def _share_near(points: Tensor, others: Tensor, tolerance: int) -> Tensor:
    """(K,) share of the points of each map that lie near another; 0 where there are none."""
    near = F.max_pool2d(others[None], 2 * tolerance + 1, 1, tolerance)[0]
    return (points * near).flatten(1).sum(1) / points.flatten(1).sum(1).clamp(min=1)
