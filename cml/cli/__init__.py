"""The command line. Every error is one sentence and exit code 2; a run with failed cells exits with 1.

A module a command or two; each imports what it needs when it runs, so that help comes at once.
"""

from cml.cli import bench, codecs, compare, data, encode_dataset, export, files, fit, info, rd, report, train
from cml.cli.app import app, console, errors, main

__all__ = ["app", "console", "errors", "main"]

# In the order of `cml --help`.
for command in (
    compare.compare, report.report, rd.rd, bench.bench, files.encode, files.decode, info.info, export.export,
    fit.fit, encode_dataset.encode_dataset,
):  # fmt: skip
    app.command()(command)
app.add_typer(train.train, name="train")
app.add_typer(data.data, name="data")
app.command("list")(codecs.list_names)
