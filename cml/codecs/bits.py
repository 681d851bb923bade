"""`bits`: scalar quantization, the same few levels for every sample of a picture or of sound."""

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
from cml.codecs.pcm import check_payload, from_int16, pack_pcm, pcm_settings, to_int16, unpack_pcm
from cml.errors import BitstreamError, CodecError

_DEPTHS = {1: 16, 2: 8}


class Bits(Codec):
    """Each sample cut to its leading bits, and put back in the middle of what they leave open.

        8-bit sample v --v >> (8 - bits)--> level --lossless WebP--> bytes --> (level + 1/2) 2^(8 - bits) - 1/2

    The middle is the best guess where all values of a cell are as likely; it never shows black or white. Sound has 16
    bits a sample and is mostly near zero, so there the cells lie around it, and silence stays silent:

        16-bit sample v --v / 2^(16 - bits), rounded--> level --FLAC, or raw--> bytes --> level 2^(16 - bits)

    Args:
        bits: a sample, 1 to 8 (lossless) of a picture, 1 to 16 (lossless) of sound.
        ndim: 2 for pictures, 1 for sound of any number of channels.
    """

    def __init__(self, bits: int = 4, ndim: int = 2):
        if ndim not in _DEPTHS:
            raise CodecError(f"bits takes ndim 1 or 2, not {ndim!r}.")
        check_option("bits", "bits", bits, 1, _DEPTHS[ndim])
        self._bits = bits
        sound = ndim == 1
        self._spec = CodecSpec(
            name=f"bits:bits={bits}" + (",ndim=1" if sound else ""),
            ndim=ndim,
            channels=tuple(range(1, 1025)) if sound else (1, 3),
            lossless=bits == _DEPTHS[ndim],
            codec_id=fingerprint({"codec": "bits", "version": 1}),
            settings={
                "bits": bits,
                **(pcm_settings() if sound else {"container": LOSSLESS_WEBP, **pillow_version("webp")}),
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        if self._spec.ndim == 1:
            kind, payload = _pack_sound(x, self._bits)
        else:
            refuse_16_bits(self.spec.name, bit_depth)
            levels = Image.fromarray(to_samples(x) >> (8 - self._bits))
            kind, payload = 0, save_picture(levels, self.spec.name, LOSSLESS_WEBP)
        bits = float(self._bits)
        return Container(self._spec.codec_id, bits, tuple(x.shape), 0, bit_depth, kind, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        bits, shape = container.parameter, container.shape
        most = _DEPTHS.get(len(shape) - 1, 0)
        if container.codec_id != self._spec.codec_id or bits not in range(1, most + 1):
            raise BitstreamError("The container was not written by bits.")
        if len(shape) == 2:
            return _unpack_sound(container, int(bits))
        picture = load_picture(container.payload, "WEBP").convert("L" if shape[0] == 1 else "RGB")
        levels = torch.from_numpy(np.array(picture, dtype=np.float32).reshape(*shape[1:], shape[0]))
        return ((levels + 0.5) * 2 ** (8 - bits) - 0.5).permute(2, 0, 1) / 127.5 - 1


def _pack_sound(x: Tensor, bits: int) -> tuple[int, bytes]:
    cell, limit = 1 << (16 - bits), 1 << (bits - 1)
    levels = np.rint(to_int16(x) / cell).clip(-limit, limit - 1)
    return pack_pcm(levels.astype(np.int16))


def _unpack_sound(container: Container, bits: int) -> Tensor:
    levels = unpack_pcm(container.payload, container.backend, container.shape[0])
    check_payload(levels, container.shape)
    return from_int16(levels) * (1 << (16 - bits))
