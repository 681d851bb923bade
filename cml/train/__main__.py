"""`python -m cml.train` and `accelerate launch -m cml.train`, the same as `cml train`."""

import sys

from cml.cli import main

sys.argv.insert(1, "train")
main()
