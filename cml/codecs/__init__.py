"""Codecs: everything that turns a signal into bytes."""
