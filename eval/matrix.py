"""A matrix: which codecs, views and seeds on which task; checked, and laid out in cells, before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cml.eval.cells import Condition, context_key
from cml.eval.protocols import REUSED, VIEWS, forms, original, view_stem, views_of
from cml.eval.results import cell_key
from cml.tasks.base import TASKS, Task

from cml.codecs.base import Codec
from cml.codecs.factory import create_codec
from cml.errors import CmlError

_USUAL = "jpeg:quality=5 jpeg:quality=30 webp:quality=1 webp:quality=50 avif:quality=5 avif:quality=40"
_SIZES = "resize:factor=2 resize:factor=4"
DEFAULT_CODECS = {
    1: f"{_SIZES} gray_f8c16:step=0.25 gray_f8c16:step=1 gray_f8c4:step=0.25 gray_f8c4:step=1 "
    f"{_USUAL} jpeg2000:rate=48 jpeg2000:rate=160",
    3: f"{_SIZES} rgb_f8c48:step=0.5 rgb_f8c48:step=1.5 rgb_f8c12:step=0.5 rgb_f8c12:step=1.5 "
    f"{_USUAL} jpeg2000:rate=60 jpeg2000:rate=200",
}
"""By the channels of pictures; each lossy codec at two operating points."""
SOUND_CODECS = {
    1: "resample:factor=4 resample:factor=16 mono_f64c64:step=0.1 mono_f64c64:step=0.4 mono_f256c16 "
    "opus:kbps=6 opus:kbps=16 mp3:kbps=16 mp3:kbps=32",
    2: "resample:factor=4 resample:factor=16 stereo_f64c128:step=0.1 stereo_f64c128:step=0.4 stereo_f256c32 "
    "opus:kbps=12 opus:kbps=32 mp3:kbps=32 mp3:kbps=64",
}
"""By the channels of sound."""
VOLUME_CODECS = {
    "hyperspectral": "downsample:factor=2,axes=2 slices-jpeg2000:rate=50 slices-jpeg2000:rate=160",
    "video": "decimate:space=2,time=2 decimate:space=4,time=4 video_f8c48 video_f8c12 x264:crf=30 x264:crf=42 "
    "frames-jpeg:quality=5 frames-jpeg:quality=30",
    "volumes": "downsample:factor=2 downsample:factor=4 volume_f8c32 volume_f8c8 slices-jpeg2000:rate=25 "
    "slices-jpeg2000:rate=100",
}
"""By the task on signals of three axes."""

# The smallest comparison that still shows every view.
QUICK_EPOCHS = 5
QUICK_CODECS = {
    1: f"{_SIZES} gray_f8c16:step=0.25 gray_f8c16:step=1 jpeg:quality=5 jpeg:quality=30",
    3: f"{_SIZES} rgb_f8c48:step=0.5 rgb_f8c48:step=1.5 jpeg:quality=5 jpeg:quality=30",
}
_NAMES = {1: "sound", 2: "pictures", 3: "signals of three axes"}
"""Of signals, by their axes."""


@dataclass(frozen=True)
class Matrix:
    """What is asked for.

    Attributes:
        task: "classification", "segmentation", "colorization", "imagenet", or another name of `cml list`.
        data: as the task takes it: "elpv", "folder:PATH", "folder-seg:PATH", "esc10:PATH", "slakh:PATH",
            "indian-pines", "mricron:PATH".
        codecs: operating points; None for a list that suits the data's channels.
        views: of the task's, as pixels, bigpatch, resize, latent, reconstruction, retrained; None for all but the last.
        backbone: "cml:small" or "timm:NAME"; for imagenet "efficientnet-lite0", "timm:NAME" or "hf:NAME"; None for the
            task's own.
        seeds: trainings per condition, seeds 0, 1, ...; three or more give a spread to trust.
        size: side in pixels to which pictures are resized whole; None for the data set's own. Where pictures keep
            their shape, as in segmentation, the height. Samples of a sound.
        patch: samples a token along each axis, for all views but the ceiling, which has half; None for the task's own.
        epochs: of each training; None for the task's own.
        quick: small pictures and few epochs, to see the whole in a minute or two.
    """

    task: str = "classification"
    data: str = "elpv"
    codecs: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    backbone: str | None = None
    seeds: int = 1
    size: int | None = None
    patch: int | None = None
    epochs: int | None = None
    quick: bool = False

    def resolve(self) -> "Comparison":
        """Everything that is left open, decided; every name, option, patch and backbone is checked here.

        Raises:
            CmlError: something is wrong with the request.
        """
        if self.seeds < 1:
            raise CmlError(f"A comparison needs 1 seed or more, not {self.seeds}.")
        size, epochs, make = self.size, self.epochs, TASKS.get(self.task)
        if self.quick and not make.frozen:
            size, epochs = size or make.quick_size, epochs or QUICK_EPOCHS
        task: Task = make(self.data, backbone=self.backbone, size=size, epochs=epochs)
        if task.frozen and self.seeds > 1:
            raise CmlError(f"The model of the task {self.task} comes trained, so it has one seed; leave --seeds out.")
        points = _suited(task, self.quick) if self.codecs is None else list(self.codecs)
        patch = task.patch if self.patch is None else self.patch
        conditions = plan(task, points, self.views, patch)
        chosen = self.size if task.frozen or len(task.size) == 3 else task.size[0]
        request = {
            "task": self.task, "data": self.data, "codecs": points, "views": list(self.views or _usual(task)),
            "backbone": task.backbone, "seeds": self.seeds, "size": chosen,
            "patch": patch, "epochs": None if task.frozen else task.epochs,
        }  # fmt: skip
        return Comparison(task, conditions, range(self.seeds), patch, request)


@dataclass(frozen=True)
class Comparison:
    """A matrix with nothing left open.

    Attributes:
        task: ready to be loaded.
        conditions: views of codecs; each has a cell a seed.
        seeds: of the trainings.
        patch: pixels a token along each axis.
        request: the settings that make it again, for the report.
    """

    task: Task
    conditions: list[Condition]
    seeds: range
    patch: int
    request: dict[str, Any]

    def cell_keys(self) -> list[str]:
        """The content key of every cell."""
        return [context_key(self.task, c, seed, self.patch) for c in self.conditions for seed in self.seeds]


def default_folder(data: str, quick: bool) -> Path:
    """runs/NAME; a folder adds a short hash of where it lies, so that two of one name do not share a run."""
    kind, _, argument = data.partition(":")
    suffix = "-quick" if quick else ""
    if not argument:
        return Path("runs") / f"{kind}{suffix}"
    place = Path(argument).expanduser().resolve()
    return Path("runs") / f"{place.name}-{cell_key({'path': str(place)})[:6]}{suffix}"


def _usual(task: Task) -> list[str]:
    """The views of a comparison that names none."""
    return [view for view in VIEWS if view in task.views and view != "retrained"]


def _suited(task: Task, quick: bool) -> list[str]:
    """The operating points of a comparison that names none."""
    if task.name in VOLUME_CODECS:
        return VOLUME_CODECS[task.name].split()
    lists = SOUND_CODECS if len(task.size) == 1 else QUICK_CODECS if quick else DEFAULT_CODECS
    if task.channels not in lists:
        raise CmlError(f"Name the codecs (--codecs): there is no usual choice for {task.channels} channels.")
    return lists[task.channels].split()


def _check(codec: Codec, task: Task) -> None:
    """Whether a codec takes the signals of a task, or a sentence."""
    spec = codec.spec
    channels = forms(task)
    if spec.ndim not in channels:
        raise CmlError(
            f"The task {task.name} has {_NAMES[len(task.size)]}, and {spec.name} takes "
            f"{_NAMES.get(spec.ndim, f'signals of {spec.ndim} axes')}; choose another codec (cml list)."
        )
    count = channels[spec.ndim]
    if count not in spec.channels:
        ends = map(str, (spec.channels[0], spec.channels[-1]))
        takes = " to ".join(ends) if len(spec.channels) > 8 else " or ".join(map(str, spec.channels))
        raise CmlError(f"{spec.name} takes {takes} channels, the data has {count}; choose another codec (cml list).")
    told, rate = spec.settings.get("rate"), getattr(task, "rate", None)
    if rate is not None and told not in (None, rate):
        raise CmlError(
            f"The data has {rate} samples a second and {spec.name} is told {told}: add the option rate={rate} to it."
        )


def plan(task: Task, points: Sequence[str], views: Sequence[str] | None, patch: int) -> list[Condition]:
    """The conditions of a comparison, the ceiling first; every name, option, patch and backbone is checked here."""
    for view in views or ():
        if view not in task.views:
            raise CmlError(f"Unknown view {view!r}; views of the task {task.name} are {', '.join(task.views)}.")
    wanted = views or _usual(task)
    codecs: dict[str, Codec] = {}
    for point in [original(task), *points]:
        codec = create_codec(point)
        _check(codec, task)
        codecs.setdefault(codec.spec.name, codec)
    conditions = [
        Condition(view, codec)
        for view in VIEWS
        for codec in codecs.values()
        if view in views_of(codec, task) and (view in wanted or (view in REUSED and "reconstruction" in wanted))
    ]
    conditions = _once(conditions, task, patch)
    for view in views or ():
        if not any(condition.view == view for condition in conditions):
            raise CmlError(f"None of the codecs {', '.join(points)} has the view {view}; add one that has (cml list).")
    for stem in {view_stem(condition.view, condition.codec, task, patch) for condition in conditions}:
        task.build(stem, seed=0)
    return conditions


def _once(conditions: list[Condition], task: Task, patch: int) -> list[Condition]:
    """Without those of `pca` that differ from another only in a codec, which has no part in them but its size."""
    kept: dict[object, Condition] = {}
    for c in conditions:
        kept.setdefault((c.view, view_stem(c.view, c.codec, task, patch) if c.view == "pca" else c.codec.spec.name), c)
    return list(kept.values())
