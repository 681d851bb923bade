"""Signals on disk, and data sets of them."""
