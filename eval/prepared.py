"""What every view hands over: a data set as a model reads it."""

from dataclasses import dataclass, field

import numpy as np

from cml.data.latents import ModelInputs
from cml.models.backbones import StemShape


@dataclass(frozen=True)
class Prepared:
    """One view of one codec on a task's data, ready for training and scoring.

    Attributes:
        stem: what the model's stem reads.
        shift: positions of the input behind `patch` samples of the signal: how far training samples move, the same in
            every view.
        train: None where nothing is trained.
        test: the test split.
        originals: of `retrained`, the test split without the codec.
        bits: (N_test,) 8 x the bytes of the whole container of each test item.
        quality: per-item measures of the reconstruction, where there is one.
        dimensions: values a sample that the model reads.
        positions: (N_test,) samples of the signal, all channels together, of each test item, where they are not all of
            the task's size.
    """

    stem: StemShape
    shift: int
    train: ModelInputs | None
    test: ModelInputs
    bits: np.ndarray
    dimensions: int
    quality: dict[str, np.ndarray] = field(default_factory=dict)
    originals: ModelInputs | None = None
    positions: np.ndarray | None = None
