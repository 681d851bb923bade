"""`python -m cml`, the same as `cml`."""

from cml.cli import main

main()
