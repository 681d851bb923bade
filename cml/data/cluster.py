"""Ray, where many workers share the work: joined at an address, or started on this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cml.errors import CmlError

_PATIENCE = 5.0  # seconds; Ray itself tries an address that nobody answers for minutes


@contextmanager
def connect(address: str | None = None, workers: int | None = None) -> Iterator[int]:
    """Ray for as long as the context lasts; yields how many workers to use, a core each.

    A Ray that this process has joined already is used as it is, and left as it is.

    Args:
        address: "HOST:PORT" of a cluster, or "auto" for the one that runs on this machine; None for RAY_ADDRESS where
            that is set, as in a Ray job, and else for workers of this machine, started here and stopped at the end.
        workers: how many to use; None for one a core.

    Raises:
        CmlError: Ray is not installed, or nobody answers at the address.
    """
    if workers is not None and workers < 1:
        raise CmlError(f"Ray needs 1 worker or more, not {workers}.")
    try:
        import ray
    except ImportError as error:
        raise CmlError("Many workers need Ray: pip install 'cml-toolkit[ray]'.") from error
    joined = ray.is_initialized()
    if not joined:
        _join(address or os.environ.get("RAY_ADDRESS") or "local", workers)
    try:
        yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if not joined:
            ray.shutdown()


def _join(address: str, workers: int | None) -> None:
    import ray

    start = address == "local"
    if start:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what runs on one machine is nobody else's business
    try:
        if not start and address != "auto":
            _knock(address)
        ray.init(
            address, num_cpus=workers if start else None, include_dashboard=False if start else None,
            log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__).split(". ")[0].rstrip(".")
        raise CmlError(
            f"Cannot start Ray on this machine: {reason}."
            if start
            else f"Cannot join the Ray cluster at {address} ({reason}): check the address, or leave it out for the "
            "workers of this machine."
        ) from error


def _knock(address: str) -> None:
    """Whether anybody listens at HOST:PORT, quickly."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address is HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
