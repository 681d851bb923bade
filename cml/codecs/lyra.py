"""Lyra V2 (SoundStream; Google, Apache-2.0): speech at 3.2, 6 or 9.2 kbit/s, through the package ai-edge-litert.

lyra                from CML_DATA/weights/lyra
lyra:FOLDER         from a folder of its three tflite files (github.com/google/lyra)

    x (C, T) --resample--> 16 kHz --encoder, 20 ms a frame--> 64 features --residual quantizer--> 16, 30 or 46 x 4 bits
    x_hat <--resample, cut-- 16 kHz <--decoder-- 64 features <----------------------------------- 16, 30 or 46 x 4 bits

The networks remember what was before, so the frames of a signal go through them in their order; each channel by itself,
through networks of its own, since nothing makes them forget. What comes out is in step with what goes in.
"""

import importlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import fingerprint
from cml.codecs.sound_neural import CodeCodec
from cml.errors import CmlError, CodecError
from cml.files import read_bytes

RATE = 16000
_FRAME, _FEATURES, _CODES, _SIZE = 320, 64, 46, 16
_QUANTIZERS = {3.2: 16, 6: 30, 9.2: 46}
_FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")


class Lyra(CodeCodec):
    """Lyra V2 at a bit rate.

    Args:
        name: what makes this codec again, without options.
        files: the encoder, the quantizer and the decoder.
        kbps: 3.2, 6 or 9.2.
        rate: samples a second of the signals.

    Raises:
        CodecError: an option is out of range, or ai-edge-litert is not installed.
        CmlError: the files are not those of Lyra.
    """

    BIT_RATES = tuple(_QUANTIZERS)

    def __init__(self, name: str, files: tuple[bytes, bytes, bytes], kbps: float = 6, rate: int = RATE):
        if kbps not in _QUANTIZERS:
            raise CodecError(f"lyra has 3.2, 6 or 9.2 kbit/s as kbps, not {kbps!r}.")
        self._encoder, _, self._decoder = files
        _, self._quantizer, _ = (_interpreter(content) for content in files)
        try:
            self._quantize = self._quantizer.get_signature_runner("encode")
            self._restore = self._quantizer.get_signature_runner("decode")
        except ValueError as error:
            raise CmlError(f"{name}: the files are not those of Lyra V2: {error}.") from error
        super().__init__(
            name, inside=RATE, sides=1, codebooks=_QUANTIZERS[kbps], size=_SIZE, rate=rate, usual_rate=RATE,
            codec_id=fingerprint({"codec": "lyra", "version": 1}, *files), options={"kbps": kbps},
            settings={"kbps": kbps, "ai-edge-litert": version("ai-edge-litert")},
        )  # fmt: skip

    def _frames(self, length: int) -> int:
        return -(-length // _FRAME)

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        frames = self._frames(x.shape[-1])
        whole = torch.nn.functional.pad(x[:, 0], (0, frames * _FRAME - x.shape[-1]))
        count = np.int32(self.codebooks)
        codes = np.empty((len(x), self.codebooks, frames), np.int64)
        for channel, samples in enumerate(whole.numpy()):
            encoder = _interpreter(self._encoder)
            for frame, part in enumerate(samples.reshape(frames, 1, _FRAME)):
                features = _run(encoder, part)
                found = self._quantize(input_frames=features, num_quantizers=count)
                codes[channel, :, frame] = found["output_0"].reshape(-1)[: self.codebooks]
        return torch.from_numpy(codes), torch.empty(len(x), 0)

    def _sound(self, codes: Tensor, floats: Tensor, length: int) -> Tensor:
        batch, count, frames = codes.shape
        x = np.empty((batch, frames, _FRAME), np.float32)
        for channel, numbers in enumerate(codes.numpy().astype(np.int32)):
            decoder = _interpreter(self._decoder)
            for frame in range(frames):
                given = np.full((_CODES, 1, 1), -1, np.int32)  # -1: this quantizer is not used
                given[:count, 0, 0] = numbers[:, frame]
                features = self._restore(encoding_indices=given)["output_0"]
                x[channel, frame] = _run(decoder, features.reshape(1, 1, _FEATURES))
        return torch.from_numpy(x).reshape(batch, 1, -1)[..., :length]


def _interpreter(content: bytes) -> Any:
    try:
        module = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise CodecError("lyra needs the package ai-edge-litert: pip install 'cml-toolkit[sound]'.") from error
    try:
        interpreter = module.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise CmlError(f"A file of Lyra is damaged, or no tflite file: {str(error).splitlines()[0]}.") from error
    return interpreter


def _run(interpreter: Any, values: np.ndarray) -> np.ndarray:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def load_lyra(name: str, kbps: float = 6, rate: int = RATE) -> Lyra:
    """The codec of "lyra" or "lyra:FOLDER".

    Raises:
        CmlError: the files are missing or not those of Lyra.
    """
    given = name.partition(":")[2]
    folder = Path(given) if given else Path(os.environ.get("CML_DATA", "")) / "weights" / "lyra"
    for file in _FILES:
        if not (folder / file).is_file():
            raise CmlError(
                f"{folder / file} is missing: bring {', '.join(_FILES)} (github.com/google/lyra) in a folder and name "
                "it, lyra:FOLDER, or set CML_DATA to the folder that holds weights/lyra."
            )
    encoder, quantizer, decoder = (read_bytes(folder / file) for file in _FILES)
    return Lyra(name, (encoder, quantizer, decoder), kbps, rate)
