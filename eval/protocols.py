"""Views: what the downstream model sees of a codec. Named in every result, never implied.

Of pictures (`picture_protocols`), of sound (`sound_protocols`), where a patch is so many samples in time, and of
volumes, cubes and video (`volume_protocols`), where it is so many of the last two axes:

pixels, waveform   full resolution, a patch half as large: the ceiling, at four times the tokens, of sound at twice
bigpatch        full resolution, the patch that the latents have: the control at equal tokens, no codec at all
pca             of hyperspectral cubes: the first principal components of the spectra, by the training pixels, as many a
                pixel as a codec has latents, which has no other part in it
spectrogram     of sound: log-mel, of every sample, a column a patch: what such models are mostly fed, at equal tokens
resize, resample   a true antialiased downsample of the whole signal, at equal tokens. Sound has a word of its own: what
                changes is the rate of its samples, a clip is as long as ever
latent          rounded symbols, exactly what a bitstream holds, normalized; no decoder runs
reconstruction  decode, then a model trained on original signals: that of `bigpatch`, at equal tokens; how the model of
                the ceiling does on the same signals is kept beside it
retrained       decode, then a model trained on decoded signals of the same codec, at equal tokens; how that model does
                on originals is kept beside it. Only where it is asked for: it answers whether a model can get used to
                what a codec does

A task whose model comes trained has two of them: the ceiling, its own input, and `reconstruction`, by the same model.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from cml.eval import picture_protocols
from cml.eval.prepared import Prepared
from cml.tasks.base import Task
from torch import Tensor

from cml.codecs.base import Codec
from cml.data.latents import ModelInputs, Space
from cml.models.backbones import StemShape

CEILINGS = ("pixels", "waveform")
"""The first view of every task is one of these."""
REUSED = (*CEILINGS, "bigpatch")
"""Views of originals, whose models `reconstruction` uses again."""
VIEWS = (*REUSED, "spectrogram", "pca", "resize", "resample", "latent", "reconstruction", "retrained")
USUAL_VIEWS = ("pixels", "bigpatch", "resize", "latent", "reconstruction")
USUAL_HYPER_VIEWS = ("pixels", "bigpatch", "pca", "resize", "latent", "reconstruction")
USUAL_SOUND_VIEWS = ("waveform", "bigpatch", "spectrogram", "resample", "latent", "reconstruction")
"""Those of a comparison that names none."""
_KINDS = {1: "cml.eval.sound_protocols", 2: "cml.eval.picture_protocols", 3: "cml.eval.volume_protocols"}


def _kind(ndim: int) -> Any:
    """The module for signals of so many axes."""
    return importlib.import_module(_KINDS.get(ndim, _KINDS[2]))


def original(task: Task) -> str:
    """The operating point of the originals."""
    return "identity" if len(task.size) == 2 else f"identity:ndim={len(task.size)}"


def protocol_version(task: Task) -> int:
    """Part of every key: raised whenever what a view hands to a model changes."""
    return _kind(len(task.size)).VERSION


def views_of(codec: Codec, task: Task | None = None) -> tuple[str, ...]:
    """The views that make sense for a codec: of those that a task has, or of all on signals of its axes."""
    if task is None:
        return tuple(view for view in _kind(codec.spec.ndim).views_of(codec) if view != "pca")
    return tuple(view for view in _kind(len(task.size)).views_of(codec) if view in task.views)


def forms(task: Task) -> Mapping[int, int]:
    """Channels of a signal to a codec of so many axes; a cube is also a picture, with a channel a band."""
    return getattr(task, "forms", {len(task.size): task.channels})


def carrier(view: str, codec: Codec, task: Task) -> Codec:
    """The codec whose containers a view comes from: nearly always its own."""
    return _kind(3).carrier(view, codec) if len(task.size) == 3 else codec


def taken(codec: Codec, x: Tensor) -> Tensor:
    """A signal (C, *axes) as a codec takes it: a cube of one channel loses that where the codec has two axes."""
    return x[0] if codec.spec.ndim == x.dim() - 2 else x


def view_stem(view: str, codec: Codec, task: Task, patch: int) -> StemShape:
    """The stem of a view: one token for `patch` samples, half as many in the ceiling; a trained model has its own."""
    return _kind(len(task.size)).view_stem(view, codec, task, patch)


def prepare(view: str, codec: Codec, task: Task, patch: int, on_item: Callable[[], None] = lambda: None) -> Prepared:
    """Encode a task's data for one view of one codec; `on_item` is called after each signal."""
    return _kind(len(task.size)).prepare(view, codec, task, patch, on_item)


def prepared_items(view: str, task: Task) -> int:
    """How many signals `prepare` encodes, for a progress bar."""
    train = {"latent": len(task.flips), "reconstruction": 0}.get(view, 1) if not task.frozen else 0
    return task.count("test") + train * task.count("train")


def blank_inputs(view: str, codec: Codec, task: Task, patch: int, split: str, count: int) -> ModelInputs:
    """A few inputs of a view that hold nothing, with the labels of a split, to time a model with."""
    return _kind(len(task.size)).blank_inputs(view, codec, task, patch, split, count)


def view_space(view: str, codec: Codec, task: Task) -> Space:
    """How a view represents pictures, and how to come back from what it represents."""
    return picture_protocols.view_space(view, codec, task)
