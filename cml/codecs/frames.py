"""Video frame by frame: each frame of the first axis is a picture file of a codec that people use.

    x (C, t, y, x) --t pictures of (C, y, x)--> files, their lengths before them --> container

Motion JPEG, and what a data set of frames stores: nothing is taken from the frame before.
"""

import torch
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec
from cml.codecs.bitstream import Container, container_id
from cml.codecs.conventional import Avif, Jpeg, PillowCodec, refuse_16_bits
from cml.codecs.slices import join_parts, kind_id, split_parts
from cml.errors import BitstreamError


class Frames(Codec):
    """What is common; `kind` is the name without options.

    Args:
        picture: the codec of a frame, at its operating point.
        parameter: what the container keeps of the operating point.
    """

    kind: str

    def __init__(self, picture: PillowCodec, parameter: float):
        self._picture, self._parameter = picture, float(parameter)
        spec = picture.spec
        self._spec = CodecSpec(
            name=f"{self.kind}:{spec.name.partition(':')[2]}",
            ndim=3,
            channels=spec.channels,
            codec_id=kind_id(self.kind),
            settings=dict(spec.settings),
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if container_id(blob) == kind_id(cls.kind) else None  # pyright: ignore[reportCallIssue]

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        kind, payload = join_parts([self._picture.compress(x[:, number]) for number in range(x.shape[1])])
        shape, codec_id = tuple(x.shape), self._spec.codec_id
        return Container(codec_id, self._parameter, shape, 0, bit_depth, kind, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        shape = container.shape
        if container.codec_id != self._spec.codec_id or len(shape) != 4:
            raise BitstreamError(f"The container was not written by {self.kind}.")
        frames = [self._picture.decompress(file) for file in split_parts(container, shape[1])]
        if any(tuple(frame.shape) != (shape[0], *shape[2:]) for frame in frames):
            raise BitstreamError(f"The frames are not of the size that the header promises, {shape}.")
        return torch.stack(frames, 1)


class FramesJpeg(Frames):
    """Each frame a JPEG file.

    Args:
        quality, subsampling: as of `jpeg`.
    """

    kind = "frames-jpeg"

    def __init__(self, quality: int = 75, subsampling: str = "4:2:0"):
        super().__init__(Jpeg(quality, subsampling), quality)


class FramesAvif(Frames):
    """Each frame an AVIF file.

    Args:
        quality, speed: as of `avif`.
    """

    kind = "frames-avif"

    def __init__(self, quality: int = 75, speed: int = 6):
        super().__init__(Avif(quality, speed), quality)
