"""What the speed benchmark measures, and how many threads it has: the base of all subjects, and our codecs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import AvifImagePlugin
from torch import Tensor

from cml.codecs.base import Codec, to_uint8
from cml.codecs.bitstream import Container
from cml.codecs.entropy import backend_by_number
from cml.codecs.factory import create_codec
from cml.errors import CmlError

Work = Callable[[], object]


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """That many threads for torch, our kernels and Pillow's AVIF decoder; Pillow's other formats use one."""
    before = torch.get_num_threads(), AvifImagePlugin.DEFAULT_MAX_THREADS
    torch.set_num_threads(count)
    AvifImagePlugin.DEFAULT_MAX_THREADS = count
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        AvifImagePlugin.DEFAULT_MAX_THREADS = before[1]


class Subject(ABC):
    """One codec at one operating point, with some number of threads, through the shortest way into its own library.

    Pictures come and go in the form that the library works on, a Pillow picture or a tensor; the way there is not
    timed.

    Attributes:
        largest: pixels beyond which it is not measured, for what takes minutes or all memory there.
        ours: whether it is a codec of cml.
        meaningful: of `bytes` and `psnr` those that say something, as random weights do not.
    """

    largest: float = float("inf")
    ours = False
    meaningful: tuple[str, ...] = ("bytes", "psnr")

    def __init__(self, name: str, threads: int):
        self.name, self.threads = name, threads

    @abstractmethod
    def take(self, x: Tensor) -> Any:
        """A picture, uint8 (3, H, W), as `encode` takes it."""

    @abstractmethod
    def encode(self, source: Any) -> bytes:
        """What is timed: a picture to bytes."""

    @abstractmethod
    def decode(self, blob: bytes) -> Any:
        """What is timed: bytes to a picture, every sample of it."""

    @abstractmethod
    def show(self, decoded: Any) -> Tensor:
        """What `decode` returned, as uint8 (3, H, W)."""

    def stages(self, source: Any, blob: bytes) -> dict[str, Work]:
        """Parts of `encode` and `decode`, "encode.NAME" and "decode.NAME", ready to be timed one by one."""
        return {}


class Ours(Subject):
    """A codec of cml with latents, by its operating point; uint8 tensor to bytes to float32 tensor."""

    ours = True

    def __init__(self, name: str, threads: int):
        super().__init__(name, threads)
        self.codec = neural(name)

    def take(self, x: Tensor) -> Tensor:
        return x

    def encode(self, source: Tensor) -> bytes:
        return self.codec.compress(source)

    def decode(self, blob: bytes) -> Tensor:
        return self.codec.decompress(blob)

    def show(self, decoded: Tensor) -> Tensor:
        return to_uint8(decoded)

    def stages(self, source: Tensor, blob: bytes) -> dict[str, Work]:
        latent, container = self.codec.unpack(blob), Container.unpack(blob)
        symbols = latent.symbols.numpy()
        coder = backend_by_number(container.backend)
        payload = container.payload
        return {
            "encode.transform": lambda: self.codec.encode(source),
            "encode.entropy": lambda: coder.encode(symbols),
            "encode.container": lambda: replace(container, payload=payload).pack(),
            "decode.container": lambda: Container.unpack(blob),
            "decode.entropy": lambda: coder.decode(payload, symbols.shape, symbols.dtype),
            "decode.transform": lambda: self.codec.decode(latent),
        }


def neural(name: str) -> Codec:
    """A codec that this benchmark takes as ours, or one sentence."""
    codec = create_codec(name)
    if codec.spec.latent_channels is None:
        raise CmlError(f"cml bench compares neural codecs with the others, which it knows by itself; {name} is none.")
    if codec.spec.ndim != 2 or 3 not in codec.spec.channels:
        raise CmlError(f"cml bench measures RGB pictures, which {name} does not take; choose another codec (cml list).")
    return codec
