"""Cost: multiply-accumulates of a model's stem and backbone, and measured throughput of a codec."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import AvifImagePlugin
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cml.codecs.base import Codec
from cml.codecs.resample import Resize
from cml.codecs.resample_sound import Resample
from cml.data.latents import single_threaded
from cml.models.backbones import StemShape

T = TypeVar("T")

_SECONDS = 0.3


@dataclass(frozen=True)
class ModelCost:
    """Of one sample.

    Attributes:
        stem_macs, backbone_macs: multiply-accumulates of convolutions and products; the backbone is all but the stem.
        tokens: positions that leave the stem.
        parameters: of the whole model.
    """

    stem_macs: int
    backbone_macs: int
    tokens: int
    parameters: int


@torch.no_grad()
def model_cost(model: nn.Module, stem_path: str, stem: StemShape) -> ModelCost:
    """Count what one forward pass of one sample costs."""
    model.eval()
    x = torch.zeros(1, stem.channels, *stem.grid)
    first = model.get_submodule(stem_path)
    tokens = first(x)
    return ModelCost(
        stem_macs=(stem_macs := _macs(first, x)),
        backbone_macs=_macs(model, x) - stem_macs,
        tokens=tokens[0, 0].numel(),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _macs(module: nn.Module, x: Tensor) -> int:
    # Fused attention kernels hide their products from the counter; the plain ones do not.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class CodecSpeed:
    """By CPU time with one thread, after warm-up, over whole signals with everything forced.

    CPU time, that of child processes included, because a comparison runs for hours beside other work, which takes wall
    time away but hardly CPU time.

    Attributes:
        encode: millions of samples of one channel (megapixels of a picture) a second, signal to container.
        load: signals a second, container to the model's input.
    """

    encode: float
    load: float


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for everything that is timed: torch, and Pillow's AVIF decoder, which takes all cores otherwise."""
    threads, AvifImagePlugin.DEFAULT_MAX_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS, 1
    try:
        with single_threaded():
            yield
    finally:
        AvifImagePlugin.DEFAULT_MAX_THREADS = threads


def codec_speed(view: str, codec: Codec, signals: Sequence[Tensor]) -> CodecSpeed:
    """Measure a codec on some signals, the way a view uses it: the median of passes that fill `_SECONDS` each."""
    with one_thread():
        load = _loader(view, codec)
        blobs = [codec.compress(signal) for signal in signals]
        load(blobs[0])
        encode = _median_pass(lambda: [codec.compress(signal) for signal in signals])
        loading = _median_pass(lambda: [load(blob) for blob in blobs])
    positions = sum(signal[0].numel() for signal in signals)
    return CodecSpeed(encode=positions / encode / 1e6, load=len(signals) / loading)


def _median_pass(work: Callable[[], object]) -> float:
    """Median CPU seconds of one pass; three at least, more while they are short."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < 101):
        start = _cpu_seconds()
        work()
        times.append(_cpu_seconds() - start)
    return max(statistics.median(times), 1e-9)


def _cpu_seconds() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def timed(work: Callable[[], T], seconds: float, most: int | None = None) -> tuple[T, float]:
    """What some work returns, and the median seconds of as many passes as fill some seconds, `most` at most."""
    times: list[float] = []
    while True:
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
        if sum(times) >= seconds or len(times) == most:
            return result, statistics.median(times)


def _loader(view: str, codec: Codec) -> Callable[[bytes], Tensor]:
    if view == "latent":
        return lambda blob: codec.unpack(blob).to_float()
    if view in ("resize", "resample") and isinstance(codec, (Resize, Resample)):
        return codec.load_small
    return codec.decompress
