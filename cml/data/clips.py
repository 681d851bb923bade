"""Clips of video with a label map for every frame: numbered pictures in a row, as CamVid has them."""

import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from cml.data.labelled_volumes import LabelledSignals, LabelledSplit
from cml.data.segmentation import LabelledPictures, MapSplit, folder_seg
from cml.errors import DataError

FRAMES = 8
"""Of a clip."""


def folder_clips(path: str = "") -> LabelledSignals:
    """Clips from the folders that `folder_seg` takes, of frames whose names end in evenly spaced numbers.

    A clip never crosses a gap or the end of a sequence; frames that are left over are left out. CamVid's labelled
    frames are a second apart.
    """
    data = folder_seg(path)
    rows = {split: clips_of(_paths(getattr(data, split))) for split in ("train", "test")}
    for split, found in rows.items():
        if not found:
            raise DataError(f"{path}: the split {split} has no {FRAMES} frames in a row, numbered evenly.")
    height, width = (n // 8 * 8 for n in data.size)
    if min(height, width) < 8:
        raise DataError(f"{path}: frames have 8 pixels a side or more, not {data.size[1]}x{data.size[0]}.")
    size = (FRAMES, height, width)
    train, test = (_split(getattr(data, split), rows[split], size) for split in ("train", "test"))
    return LabelledSignals(
        classes=data.classes,
        train=train,
        test=test,
        size=size,
        channels=data.train.channels,
        blind=None,
        revision=data.revision,
        description=f"{data.description}; clips of {FRAMES} frames in a row",
    )


def clips_of(paths: Sequence[Path]) -> list[list[int]]:
    """Places in a list of files of the frames of each clip, one after the other, without overlap.

    Frames belong together where their names differ in the number at their end alone, by what most neighbours of the
    sequence differ.
    """
    sequences: dict[str, list[tuple[int, int]]] = {}
    for place, path in enumerate(paths):
        match = re.fullmatch(r"(.*?)(\d+)", path.stem)
        if match:
            sequences.setdefault(match[1], []).append((int(match[2]), place))
    clips: list[list[int]] = []
    for frames in sequences.values():
        frames.sort()
        steps = [after[0] - before[0] for before, after in pairwise(frames)]
        usual = max(sorted(set(steps)), key=steps.count, default=0)
        run: list[int] = []
        for number, (_, place) in enumerate(frames):
            if run and steps[number - 1] != usual:
                run = []
            run.append(place)
            if len(run) == FRAMES:
                clips.append(run)
                run = []
    return clips


def _paths(split: LabelledPictures) -> Sequence[Path]:
    if not isinstance(split, MapSplit):
        raise DataError("Clips are made of frames that lie in files.")
    return split.paths


def _split(split: LabelledPictures, clips: list[list[int]], size: tuple[int, int, int]) -> LabelledSplit:
    return LabelledSplit(len(clips), partial(_signal, split, clips, size), partial(_labels, split, clips, size))


def _signal(split: LabelledPictures, clips: list[list[int]], size: tuple[int, int, int], index: int) -> Tensor:
    """uint8 (C, *size): each frame's top left, by less than 8 pixels smaller than the median frame."""
    frames = [split.image(place) for place in clips[index]]
    smallest = [min(frame.shape[axis] for frame in frames) for axis in (1, 2)]
    if any(frame.dtype != torch.uint8 for frame in frames) or smallest[0] < size[1] or smallest[1] < size[2]:
        raise DataError("The frames of a clip are 8-bit pictures of one size.")
    return torch.stack([frame[:, : size[1], : size[2]] for frame in frames], 1)


def _labels(split: LabelledPictures, clips: list[list[int]], size: tuple[int, int, int], index: int) -> Tensor:
    """uint8 (*size)."""
    shapes = [tuple(split.image(place).shape[1:]) for place in clips[index]]
    maps = [split.labels(place, (h, w)) for place, (h, w) in zip(clips[index], shapes, strict=True)]
    return torch.stack([labels[: size[1], : size[2]] for labels in maps])
