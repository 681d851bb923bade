"""`bits`: scalar quantization, the same few levels for every sample."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.bitstream import Container
from cml.codecs.conventional import (
    check_option,
    load_picture,
    pillow_version,
    refuse_16_bits,
    save_picture,
    to_samples,
)
from cml.codecs.lossless import LOSSLESS_WEBP
from cml.errors import BitstreamError


class Bits(Codec):
    """Each sample cut to its leading bits, kept as lossless WebP, and put back in the middle of what they leave open.

        8-bit sample v --v >> (8 - bits)--> level --lossless WebP--> bytes --> (level + 1/2) 2^(8 - bits) - 1/2

    The middle is the best guess where all values of a cell are as likely; it never shows black or white.

    Args:
        bits: a sample, 1 to 8 (lossless).
    """

    def __init__(self, bits: int = 4):
        check_option("bits", "bits", bits, 1, 8)
        self._bits = bits
        self._spec = CodecSpec(
            name=f"bits:bits={bits}",
            ndim=2,
            channels=(1, 3),
            lossless=bits == 8,
            codec_id=fingerprint({"codec": "bits", "version": 1}),
            settings={"bits": bits, "container": LOSSLESS_WEBP, **pillow_version("webp")},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        levels = Image.fromarray(to_samples(x) >> (8 - self._bits))
        payload = save_picture(levels, self.spec.name, LOSSLESS_WEBP)
        return Container(self._spec.codec_id, float(self._bits), tuple(x.shape), 0, bit_depth, 0, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        bits, shape = container.parameter, container.shape
        if container.codec_id != self._spec.codec_id or bits not in range(1, 9) or len(shape) != 3:
            raise BitstreamError("The container was not written by bits.")
        picture = load_picture(container.payload, "WEBP").convert("L" if shape[0] == 1 else "RGB")
        levels = torch.from_numpy(np.array(picture, dtype=np.float32).reshape(*shape[1:], shape[0]))
        return ((levels + 0.5) * 2 ** (8 - bits) - 0.5).permute(2, 0, 1) / 127.5 - 1
