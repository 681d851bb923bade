"""Downstream tasks: what a machine does with a representation, how it is trained, and how it is scored."""
