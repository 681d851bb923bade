"""`compare`: every view of every codec on one task, cell by cell, resumable, into one folder."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cml.eval import report
from cml.eval.complexity import CodecSpeed, ModelCost, codec_speed, model_cost
from cml.eval.progress import Progress
from cml.eval.protocols import PROTOCOL_VERSION, VIEWS, Prepared, prepare, prepared_items, view_stem, views_of
from cml.eval.results import Result, Run, cell_key
from cml.tasks.base import TASKS, Task
from safetensors.torch import load_file
from safetensors.torch import save as serialize

import cml
from cml.codecs.base import Codec
from cml.codecs.cost import codec_cost
from cml.codecs.factory import create_codec
from cml.errors import CmlError
from cml.files import write_atomic

_USUAL = "jpeg:quality=5 jpeg:quality=30 webp:quality=1 webp:quality=50 avif:quality=5 avif:quality=40"
_SIZES = "resize:factor=2 resize:factor=4"
DEFAULT_CODECS = {
    1: f"{_SIZES} gray_f8c16:step=0.25 gray_f8c16:step=1 gray_f8c4:step=0.25 gray_f8c4:step=1 "
    f"{_USUAL} jpeg2000:rate=48 jpeg2000:rate=160",
    3: f"{_SIZES} rgb_f8c48:step=0.5 rgb_f8c48:step=1.5 rgb_f8c12:step=0.5 rgb_f8c12:step=1.5 "
    f"{_USUAL} jpeg2000:rate=60 jpeg2000:rate=200",
}
"""By the channels of the data; each lossy codec at two operating points."""

# The smallest comparison that still shows every view.
QUICK_SIZE, QUICK_EPOCHS = 128, 5
QUICK_CODECS = {
    1: f"{_SIZES} gray_f8c16:step=0.25 gray_f8c16:step=1 jpeg:quality=5 jpeg:quality=30",
    3: f"{_SIZES} rgb_f8c48:step=0.5 rgb_f8c48:step=1.5 jpeg:quality=5 jpeg:quality=30",
}
_TIMED_SIGNALS = 16
# Libraries that a score depends on; a codec names its own in its settings.
_LIBRARIES = ("torch", "timm", "pillow", "numpy", "scikit-learn")
# Views of original pixels, whose models `reconstruction` uses again.
_REUSED = ("pixels", "bigpatch")


@dataclass(frozen=True)
class Condition:
    """A view of a codec; each seed of it is a cell."""

    view: str
    codec: Codec


def compare(
    task: str = "classification",
    data: str = "elpv",
    codecs: Sequence[str] | str | None = None,
    views: Sequence[str] | str | None = None,
    *,
    backbone: str = "cml:small",
    seeds: int = 1,
    size: int | None = None,
    patch: int = 16,
    epochs: int | None = None,
    quick: bool = False,
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Compare what representations of a signal are worth to a machine, at which rate and cost.

    Finished cells are kept in `out` and never computed again; a cell that fails is recorded, and the rest goes on.

    Args:
        task: "classification".
        data: "elpv" or "folder:PATH".
        codecs: operating points, a list or separated by spaces; None for a list that suits the data's channels.
        views: of pixels, bigpatch, resize, latent, reconstruction; None for all.
        backbone: "cml:small" or "timm:NAME".
        seeds: trainings per condition, seeds 0, 1, ...; three or more give a spread to trust.
        size: side in pixels to which pictures are resized whole; None for the data set's own.
        patch: pixels a token along each axis, for all views but `pixels`, which has half.
        epochs: of each training; None for the task's own.
        quick: small pictures and few epochs, to see the whole in a minute or two.
        out: folder of the run; None for `default_folder`.

    Returns:
        One row a condition, also written to `summary.csv`, `report.md` and pictures in `out`.

    Raises:
        CmlError: something is wrong with the request; nothing has run then.
    """
    if seeds < 1:
        raise CmlError(f"A comparison needs 1 seed or more, not {seeds}.")
    if quick:
        size, epochs = size or QUICK_SIZE, epochs or QUICK_EPOCHS
    the_task: Task = TASKS.get(task)(data, backbone=backbone, size=size, epochs=epochs)
    suited = (QUICK_CODECS if quick else DEFAULT_CODECS)[the_task.channels].split()
    codecs = codecs.split() if isinstance(codecs, str) else codecs
    views = views.split() if isinstance(views, str) else views
    points = list(codecs) if codecs is not None else suited
    conditions = plan(the_task, points, views, patch)
    run = Run(out or default_folder(data, quick))
    request = {
        "task": task, "data": data, "codecs": points, "views": list(views or VIEWS), "backbone": backbone,
        "seeds": seeds, "size": the_task.size[0], "patch": patch, "epochs": the_task.epochs,
    }  # fmt: skip
    new = execute(the_task, conditions, range(seeds), patch, run)
    keys = [context_key(the_task, condition, seed, patch) for condition in conditions for seed in range(seeds)]
    done = run.results()
    results = [done[key] for key in keys if key in done]
    table = report.summarize(results, run)
    table.attrs["folder"] = str(run.folder)
    report.write(run, table, results, the_task, [c.codec for c in conditions], request, fresh=new > 0)
    return table


def default_folder(data: str, quick: bool) -> Path:
    """runs/NAME; a folder adds a short hash of where it lies, so that two of one name do not share a run."""
    kind, _, argument = data.partition(":")
    suffix = "-quick" if quick else ""
    if not argument:
        return Path("runs") / f"{kind}{suffix}"
    place = Path(argument).expanduser().resolve()
    return Path("runs") / f"{place.name}-{cell_key({'path': str(place)})[:6]}{suffix}"


def plan(task: Task, points: Sequence[str], views: Sequence[str] | None, patch: int) -> list[Condition]:
    """The conditions of a comparison, `pixels` first; every name, option, patch and backbone is checked here."""
    for view in views or ():
        if view not in VIEWS:
            raise CmlError(f"Unknown view {view!r}; views are {', '.join(VIEWS)}.")
    wanted = views or VIEWS
    codecs: dict[str, Codec] = {}
    for point in ["identity", *points]:
        codec = create_codec(point)
        if task.channels not in codec.spec.channels:
            raise CmlError(
                f"{codec.spec.name} takes {' or '.join(map(str, codec.spec.channels))} channels, the data has "
                f"{task.channels}; choose another codec (cml list)."
            )
        codecs.setdefault(codec.spec.name, codec)
    conditions = [
        Condition(view, codec)
        for view in VIEWS
        for codec in codecs.values()
        if view in views_of(codec) and (view in wanted or (view in _REUSED and "reconstruction" in wanted))
    ]
    for view in views or ():
        if not any(condition.view == view for condition in conditions):
            raise CmlError(f"None of the codecs {', '.join(points)} has the view {view}; add one that has (cml list).")
    for stem in {view_stem(condition.view, condition.codec, task, patch) for condition in conditions}:
        task.build(stem, seed=0)
    return conditions


def context_of(task: Task, condition: Condition, seed: int, patch: int) -> dict[str, Any]:
    """Everything that the scores of a cell depend on."""
    spec = condition.codec.spec
    return {
        **task.key,
        "view": condition.view,
        "protocol_version": PROTOCOL_VERSION,
        "codec": spec.name,
        "codec_id": spec.codec_id,
        "codec_settings": dict(spec.settings),
        "patch": patch,
        "seed": seed,
        "versions": {"cml": cml.__version__, **{name: version(name) for name in _LIBRARIES}},
    }


def context_key(task: Task, condition: Condition, seed: int, patch: int) -> str:
    """The content key of a cell."""
    return cell_key(context_of(task, condition, seed, patch))


def execute(task: Task, conditions: Sequence[Condition], seeds: range, patch: int, run: Run) -> int:
    """Run the cells that have no good result yet; returns how many."""
    done = run.results()

    def finished(condition: Condition, seed: int) -> bool:
        key = context_key(task, condition, seed, patch)
        needs_model = condition.view in _REUSED and not run.model_path(key).exists()
        return key in done and done[key].status == "ok" and not needs_model

    missing = {c: [s for s in seeds if not finished(c, s)] for c in conditions}
    total = sum(map(len, missing.values()))
    with Progress(total, len(conditions) * len(seeds)) as progress:
        if total:
            with progress.step("read the pictures", task.count("train") + task.count("test")) as advance:
                task.load(advance)
        for condition, todo in missing.items():
            if todo:
                _run_condition(task, condition, todo, patch, run, progress)
    return total


def _run_condition(
    task: Task, condition: Condition, seeds: list[int], patch: int, run: Run, progress: Progress
) -> None:
    title = f"{condition.view} {condition.codec.spec.name}"

    def failed(seed: int, error: Exception) -> Result:
        context = context_of(task, condition, seed, patch)
        sentence = str(error) if isinstance(error, CmlError) else f"{type(error).__name__}: {error}"
        return Result(
            key=cell_key(context), view=condition.view, codec=condition.codec.spec.name, seed=seed,
            status="error", error=sentence, context=context, environment=environment(),
        )  # fmt: skip

    try:
        with progress.step(f"{title}: encode", prepared_items(condition.view, task)) as advance:
            prepared = prepare(condition.view, condition.codec, task, patch, advance)
            signals = [task.signal("test", i) for i in range(min(_TIMED_SIGNALS, task.count("test")))]
            speed = codec_speed(condition.view, condition.codec, signals)
    except Exception as error:  # one codec must not stop the matrix
        for seed in seeds:
            run.append(failed(seed, error))
            progress.finished(title, seed, f"failed: {error}")
        return
    for seed in seeds:
        try:
            with progress.step(f"{title}, seed {seed}: train", task.epochs) as advance:
                result = _run_cell(task, condition, prepared, speed, seed, patch, run, advance)
        except Exception as error:
            result = failed(seed, error)
        run.append(result)
        score = result.metrics.get(task.main_score)
        progress.finished(
            title,
            seed,
            f"failed: {result.error}" if score is None else f"{task.main_score} {score:.3f}, {result.bpp:.3f} bpp",
        )


def _run_cell(
    task: Task,
    condition: Condition,
    prepared: Prepared,
    speed: CodecSpeed,
    seed: int,
    patch: int,
    run: Run,
    advance: Callable[[], None],
) -> Result:
    context = context_of(task, condition, seed, patch)
    key = cell_key(context)
    model, stem_path = task.build(prepared.stem, seed)
    cost = model_cost(model, stem_path, prepared.stem)
    if prepared.train is None:
        trained = _trained("bigpatch", task, seed, patch, run)
        model.load_state_dict(load_file(run.model_path(trained.key)))
        train_ips = trained.train_ips
    else:
        train_ips = task.train(model, prepared.train, prepared.shift, seed, lambda epoch, loss: advance()).rate
    score = task.score(model, prepared.test)
    metrics = dict(score.metrics)
    if condition.view == "reconstruction":
        metrics["by_pixels_model"] = _score_by_ceiling(task, prepared, seed, patch, run)
    if condition.view in _REUSED:
        write_atomic(run.model_path(key), serialize({k: v.contiguous() for k, v in model.state_dict().items()}))
    run.save_items(key, {**score.items, "bits": prepared.bits, **prepared.quality})
    return _result(task, condition, context, key, prepared, cost, speed, metrics, train_ips)


def _trained(view: str, task: Task, seed: int, patch: int, run: Run) -> Result:
    """The result of a view of the original pixels, whose model is kept."""
    condition = Condition(view, create_codec("identity"))
    result = run.results().get(context_key(task, condition, seed, patch))
    if result is None or result.status != "ok":
        raise CmlError(
            f"The model of the view {view}, seed {seed}, is missing: its cell failed, so this one cannot run."
        )
    return result


def _score_by_ceiling(task: Task, prepared: Prepared, seed: int, patch: int, run: Run) -> float:
    """The main score of the model of `pixels` on the same inputs."""
    stem = view_stem("pixels", create_codec("identity"), task, patch)
    model, _ = task.build(stem, seed)
    model.load_state_dict(load_file(run.model_path(_trained("pixels", task, seed, patch, run).key)))
    return task.score(model, prepared.test).metrics[task.main_score]


def _result(
    task: Task,
    condition: Condition,
    context: Mapping[str, Any],
    key: str,
    prepared: Prepared,
    cost: ModelCost,
    speed: CodecSpeed,
    metrics: Mapping[str, float],
    train_ips: float,
) -> Result:
    pixels = task.size[0] * task.size[1]
    quality = prepared.quality.get("psnr")
    finite = quality[np.isfinite(quality)] if quality is not None else None
    return Result(
        key=key,
        view=condition.view,
        codec=condition.codec.spec.name,
        seed=context["seed"],
        status="ok",
        metrics=metrics,
        bpp=float(np.mean(prepared.bits / pixels)),
        dimensions=prepared.dimensions,
        tokens=cost.tokens,
        stem_macs=cost.stem_macs,
        backbone_macs=cost.backbone_macs,
        parameters=cost.parameters,
        encode_mps=speed.encode,
        load_ips=speed.load,
        train_ips=train_ips,
        psnr=None if finite is None or not len(finite) else float(finite.mean()),
        chance=task.chance,
        codec_cost=codec_cost(condition.codec),
        settings=dict(condition.codec.spec.settings),
        context=context,
        environment=environment(),
    )


def environment() -> dict[str, Any]:
    """What timings depend on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "cml": cml.__version__,
        "torch": torch.__version__,
    }
