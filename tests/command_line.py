"""The command line, in this process."""

import contextlib
import io
import sys

import pytest

from cml import cli


def run(*arguments, expect=0):
    """In this process, through the same entry as the console script."""
    argv, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["cml", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
            cli.main()
            sys.exit(0)
    finally:
        sys.argv = argv
    code = caught.value.code or 0
    assert code == expect, (code, out.getvalue(), err.getvalue())
    return " ".join((out.getvalue() + err.getvalue()).split())
