"""Cells: one view of one codec with one seed. Those without a good result yet are run and kept."""

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from cml.eval import answers
from cml.eval.complexity import CodecSpeed, ModelCost, codec_speed, model_cost
from cml.eval.prepared import Prepared
from cml.eval.progress import Progress
from cml.eval.protocols import (
    REUSED,
    carrier,
    original,
    prepare,
    prepared_items,
    protocol_version,
    taken,
    view_stem,
)
from cml.eval.results import Result, Run, cell_key
from cml.tasks.base import Score, Task
from rich.console import Console
from safetensors.torch import load_file
from safetensors.torch import save as serialize

import cml
from cml.codecs.base import Codec
from cml.codecs.cost import codec_cost
from cml.codecs.factory import create_codec
from cml.errors import CmlError
from cml.files import write_atomic

_TIMED_SIGNALS = 16
# Libraries that a score depends on; a codec names its own in its settings.
_LIBRARIES = ("torch", "timm", "pillow", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Condition:
    """A view of a codec; each seed of it is a cell."""

    view: str
    codec: Codec


def context_of(task: Task, condition: Condition, seed: int, patch: int) -> dict[str, Any]:
    """Everything that the scores of a cell depend on."""
    spec = condition.codec.spec
    return {
        **task.key,
        "view": condition.view,
        "protocol_version": protocol_version(task),
        "codec": spec.name,
        "codec_id": spec.codec_id,
        "codec_settings": dict(spec.settings),
        "patch": patch,
        "seed": seed,
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    return {"cml": cml.__version__, **{name: version(name) for name in _LIBRARIES}}


def context_key(task: Task, condition: Condition, seed: int, patch: int) -> str:
    """The content key of a cell."""
    return cell_key(context_of(task, condition, seed, patch))


Engine = Callable[[Task, Mapping[Condition, Sequence[int]], int, Run, Progress], None]
"""Runs the given seeds of conditions, at a patch, into a run: `here`, or `ray_cells.RayEngine`."""


def execute(
    task: Task,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    patch: int,
    run: Run,
    engine: Engine | None = None,
    console: Console | None = None,
) -> int:
    """Run the cells that have no good result yet; returns how many.

    Args:
        task, conditions, seeds, patch: the cells.
        run: where results are kept and looked for.
        engine: what runs them; None for `here`.
        console: for progress; None for that of errors.
    """

    def finished(condition: Condition, seed: int) -> bool:
        key = context_key(task, condition, seed, patch)
        return run.finished(key, model=condition.view in REUSED and not task.frozen)

    missing = {c: todo for c in conditions if (todo := [s for s in seeds if not finished(c, s)])}
    total = sum(map(len, missing.values()))
    with Progress(total, len(conditions) * len(seeds), console) as progress:
        if total:
            (engine or here)(task, missing, patch, run, progress)
    return total


def here(task: Task, missing: Mapping[Condition, Sequence[int]], patch: int, run: Run, progress: Progress) -> None:
    """The engine of this process: cell by cell; the seeds of a condition share its encoding."""
    with progress.step("read the pictures", task.count("train") + task.count("test")) as advance:
        task.load(advance)
    for condition, seeds in missing.items():
        _run_condition(task, condition, seeds, patch, run, progress)


def failure(task: Task, condition: Condition, seed: int, patch: int, error: Exception) -> Result:
    """The result of a cell that came to nothing; it runs again next time."""
    context = context_of(task, condition, seed, patch)
    sentence = str(error) if isinstance(error, CmlError) else f"{type(error).__name__}: {error}"
    return Result(
        key=cell_key(context), view=condition.view, codec=condition.codec.spec.name, seed=seed,
        status="error", error=sentence, context=context, environment=environment(),
    )  # fmt: skip


def kbps_of(result: Result) -> float | None:
    """Kilobits a second of sound; None of what has no sampling rate."""
    rate = result.context.get("sampling_rate")
    return None if rate is None else result.bpp * rate / 1000


def show(result: Result, main_score: str, progress: Progress) -> None:
    """The line of a cell that is done."""
    score = result.metrics.get(main_score)
    rate = f"{kbps:.1f} kbit/s" if (kbps := kbps_of(result)) is not None else f"{result.bpp:.3f} bpp"
    outcome = f"failed: {result.error}" if score is None else f"{main_score} {score:.3f}, {rate}"
    progress.finished(f"{result.view} {result.codec}", result.seed, outcome)


def _run_condition(
    task: Task, condition: Condition, seeds: Sequence[int], patch: int, run: Run, progress: Progress
) -> None:
    title = f"{condition.view} {condition.codec.spec.name}"
    start = time.perf_counter()
    try:
        with progress.step(f"{title}: encode", prepared_items(condition.view, task)) as advance:
            prepared = prepare(condition.view, condition.codec, task, patch, advance)
            codec = carrier(condition.view, condition.codec, task)
            signals = [task.signal("test", i) for i in range(min(_TIMED_SIGNALS, task.count("test")))]
            speed = codec_speed(condition.view, codec, [taken(codec, x) for x in signals])
    except Exception as error:  # one codec must not stop the matrix
        for seed in seeds:
            run.append(result := failure(task, condition, seed, patch, error))
            show(result, task.main_score, progress)
        return
    for seed in seeds:
        try:
            with progress.step(f"{title}, seed {seed}: train", task.epochs) as advance:
                result = _run_cell(task, condition, prepared, speed, seed, patch, run, advance)
        except Exception as error:
            result = failure(task, condition, seed, patch, error)
        # The encoding counts as the first seed's: what matters is their sum.
        run.append(replace(result, seconds=(now := time.perf_counter()) - start))
        start = now
        show(result, task.main_score, progress)


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
    if prepared.train is not None:
        train_ips = task.train(model, prepared.train, prepared.shift, seed, lambda epoch, loss: advance()).rate
    elif task.frozen:
        train_ips = 0.0
    else:
        trained = _trained("bigpatch", task, seed, patch, run)
        model.load_state_dict(load_file(run.model_path(trained.key)))
        train_ips = trained.train_ips
    cost = model_cost(model, stem_path, prepared.stem)  # of what training made: it may add support vectors
    score = task.score(model, prepared.test)
    metrics = dict(score.metrics)
    if score.pictures is not None:
        metrics |= answers.measure(score.pictures)
        answers.keep(run, key, score.pictures)
    if score.sounds is not None:
        answers.keep(run, key, score.sounds)
    if condition.view == "reconstruction":
        if "predicted" in score.items:
            metrics["agreement"] = _agreement(task, score, seed, patch, run)
        if not task.frozen:
            metrics[f"by_{task.views[0]}_model"] = _score_by_ceiling(task, prepared, seed, patch, run)
    if prepared.originals is not None:
        metrics["on_originals"] = task.score(model, prepared.originals).metrics[task.main_score]
    if condition.view in REUSED and not task.frozen:
        write_atomic(run.model_path(key), serialize({k: v.contiguous() for k, v in model.state_dict().items()}))
    run.save_items(key, {**score.items, "bits": prepared.bits, **prepared.quality})
    return _result(task, condition, context, key, prepared, cost, speed, metrics, train_ips)


def _trained(view: str, task: Task, seed: int, patch: int, run: Run) -> Result:
    """The result of a view of the original pixels, whose model is kept."""
    condition = Condition(view, create_codec(original(task)))
    result = run.results().get(context_key(task, condition, seed, patch))
    if result is None or result.status != "ok":
        raise CmlError(
            f"The model of the view {view}, seed {seed}, is missing: its cell failed, so this one cannot run."
        )
    return result


def _agreement(task: Task, score: Score, seed: int, patch: int, run: Run) -> float:
    """The share of test items that the same model takes for the same thing without the codec, rightly or not."""
    before = _trained(task.views[0] if task.frozen else "bigpatch", task, seed, patch, run)
    return float((run.items(before.key)["predicted"] == score.items["predicted"]).mean())


def _score_by_ceiling(task: Task, prepared: Prepared, seed: int, patch: int, run: Run) -> float:
    """The main score of the model of the ceiling on the same inputs."""
    ceiling = task.views[0]
    stem = view_stem(ceiling, create_codec(original(task)), task, patch)
    model, _ = task.build(stem, seed)
    model.load_state_dict(load_file(run.model_path(_trained(ceiling, task, seed, patch, run).key)))
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
    positions = math.prod(task.size) if prepared.positions is None else prepared.positions
    quality = prepared.quality.get("psnr")
    finite = quality[np.isfinite(quality)] if quality is not None else None
    return Result(
        key=key,
        view=condition.view,
        codec=condition.codec.spec.name,
        seed=context["seed"],
        status="ok",
        metrics=metrics,
        bpp=float(np.mean(prepared.bits / positions)),
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
