"""`python -m cml.train`, and the same under `torchrun` or `accelerate launch`: `cml train`."""

import sys

from cml.cli import main

sys.argv.insert(1, "train")
main()
