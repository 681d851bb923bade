"""What every command shares: the application, the consoles, a progress bar, and errors as one sentence."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from cml.errors import CmlError

app = typer.Typer(
    help="Compressed-domain machine learning: encode once, learn from the latents, measure what a codec costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)


def main() -> None:
    """Entry point: errors of cml become one sentence, an interrupt becomes exit code 130."""
    try:
        app(standalone_mode=True)
    except CmlError as error:
        errors.print(f"cml: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("cml: interrupted; what is finished is kept, run the same command again to go on.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar on the error console that is gone at the end; call what it yields after each of `total` items."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors, transient=True) as bars:
        task = bars.add_task("", total=total)
        yield lambda: bars.advance(task)
