"""`compare`: every view of every codec on one task, cell by cell, resumable, into one folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from cml.eval import matrix_file, report, tables
from cml.eval.cells import Engine, execute, here
from cml.eval.matrix import Comparison, Matrix, default_folder
from cml.eval.results import Run
from cml.tasks.base import TASKS

from cml.errors import CmlError
from cml.files import write_atomic
from cml.registry import unknown


def compare(
    task: str = "classification",
    data: str = "elpv",
    codecs: Sequence[str] | str | None = None,
    views: Sequence[str] | str | None = None,
    *,
    backbone: str | None = None,
    seeds: int = 1,
    size: int | None = None,
    patch: int | None = None,
    epochs: int | None = None,
    quick: bool = False,
    out: str | Path | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Compare what representations of a signal are worth to a machine, at which rate and cost.

    Finished cells are kept in `out` and never computed again; a cell that fails is recorded, and the rest goes on.

    Args:
        task: "classification", "segmentation", "colorization", "imagenet", or another name of `cml list`.
        data: as the task takes it: "elpv", "folder:PATH", "folder-seg:PATH".
        codecs: operating points, a list or separated by spaces; None for a list that suits the data's channels.
        views: of pixels, bigpatch, resize, latent, reconstruction, retrained; None for all but the last.
        backbone: a name, as in `Matrix`; None for the task's own.
        seeds: trainings per condition, seeds 0, 1, ...; three or more give a spread to trust.
        size: side in pixels to which pictures are resized whole, or their height; None for the data set's own.
        patch: pixels a token along each axis, for all views but `pixels`, which has half; None for the task's own.
        epochs: of each training; None for the task's own.
        quick: small pictures and few epochs, to see the whole in a minute or two.
        out: folder of the run; None for `default_folder`.
        engine, address, workers: where the cells run, as in `run_matrix`; no result depends on it.

    Returns:
        One row a condition, also written to `summary.csv`, `report.md` and pictures in `out`.

    Raises:
        CmlError: something is wrong with the request; nothing has run then.
    """
    matrix = Matrix(
        task, data, _words(codecs), _words(views), backbone=backbone, seeds=seeds, size=size, patch=patch,
        epochs=epochs, quick=quick,
    )  # fmt: skip
    return run_matrix(matrix, out or default_folder(data, quick), engine=engine, address=address, workers=workers)


def run_matrix(
    matrix: Matrix, out: str | Path, *, engine: str = "local", address: str | None = None, workers: int | None = None
) -> pd.DataFrame:
    """`compare` by a `Matrix`, into a folder.

    The folder's `matrix.yaml` is there before the first cell: `cml compare FOLDER/matrix.yaml` makes the run again, or
    goes on with it.

    Args:
        matrix: what to compare.
        out: folder of the run.
        engine: "local", one cell after the other with all threads, or "ray", many workers of one thread each. Workers
            on other machines need the same packages, and a file system in common: `out`, the data and the files of
            codecs have the same paths there. A cell's `train_ips` is then that of one thread.
        address: "HOST:PORT" of a Ray cluster, or "auto"; None for workers of this machine.
        workers: how many; None for one a core.
    """
    comparison, run = matrix.resolve(), Run(out)
    cells = _engine(comparison, engine, address, workers)
    write_atomic(run.folder / matrix_file.NAME, matrix_file.dump_matrix(comparison.request, run.folder))
    new = execute(comparison.task, comparison.conditions, comparison.seeds, comparison.patch, run, cells)
    done = run.results()
    results = [done[key] for key in comparison.cell_keys() if key in done]
    table = report.summarize(results, run, comparison.task.main_score)
    table.attrs["folder"] = str(run.folder)
    tables.write(run, table, results, comparison.task.main_score)
    codecs = [condition.codec for condition in comparison.conditions]
    report.write(run, table, results, comparison.task, codecs, comparison.request, fresh=new > 0)
    return table


def _engine(comparison: Comparison, engine: str, address: str | None, workers: int | None) -> Engine:
    """The engine of a name."""
    if engine == "ray":
        from cml.eval.ray_cells import RayEngine

        how = {name: comparison.request[name] for name in ("data", "backbone", "size", "epochs")}
        return RayEngine(partial(TASKS.get(comparison.request["task"]), **how), address, workers)
    if engine != "local":
        raise CmlError(unknown("engine", engine, ["local", "ray"]))
    if address is not None or workers is not None:
        raise CmlError("An address and a number of workers are for the engine ray (--engine ray).")
    return here


def _words(names: Sequence[str] | str | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names.split() if isinstance(names, str) else names)
