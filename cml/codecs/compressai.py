"""The learned codecs of CompressAI, with the bytes of its own range coder.

    compressai:bmshj2018-factorized,quality=3       weights from CompressAI's server, once
    compressai:mbt2018,quality=1,weights=FILE       weights from a file: a state dict, or a checkpoint that holds one

All but `bmshj2018-factorized` choose the probability tables of the decoder by floats that a network computes: bytes are
sure to decode only on the kind of machine, and with the number of threads, that wrote them (a known limit of these
models, and why cml's own codecs give the coder integers only).

CompressAI asks for numpy < 2 and runs with later ones, so it is installed without what it asks for.
"""

import importlib
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cml import hub
from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.bitstream import Container
from cml.codecs.geometry import crop, grid_shape, pad_to_multiple
from cml.errors import BitstreamError, CmlError, CodecError

MODELS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018", "cheng2020-anchor", "cheng2020-attn")
METRICS = ("mse", "ms-ssim")
INSTALL = "pip install --no-deps compressai==1.2.8 pytorch-msssim torch-geometric xxhash"
_LENGTH = 4  # bytes


class CompressAi(Codec):
    """A model of CompressAI, on the CPU.

        x (3, H, W) --[0, 1], edges repeated to multiples of 16 or 64--> model.compress --> strings --> container
        x_hat <--crop-------------------------------------------- model.decompress <-- strings <--------- container

    Args:
        name: what makes this codec again, without options.
        model: with its weights and tables; eval mode.
        options: those of the name, in force.
        settings: what else belongs with a result.
    """

    def __init__(self, name: str, model: Any, options: dict[str, Any], settings: dict[str, Any]):
        self._model, self._multiple = model, model.downsampling_factor
        # The tables are in the state: where another machine computed others, its bytes are refused, not garbled.
        parts = [name.encode()]
        for key, tensor in sorted(model.state_dict().items()):
            parts += [key.encode(), tensor.contiguous().numpy().tobytes()]
        self._spec = CodecSpec(
            name=f"{name}," + ",".join(f"{key}={value}" for key, value in options.items()),
            ndim=2,
            channels=(3,),
            codec_id=fingerprint(*parts),
            settings=options | settings,
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        out = self._model.compress(pad_to_multiple((x + 1) / 2, 2, self._multiple)[None])
        strings = [string for (string,) in out["strings"]]
        payload = b"".join(len(string).to_bytes(_LENGTH, "little") for string in strings[:-1]) + b"".join(strings)
        return Container(self.spec.codec_id, 0.0, tuple(x.shape), len(strings), bit_depth, 0, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        if container.codec_id != self.spec.codec_id:
            raise BitstreamError(
                f"The container was written by codec {container.codec_id}, not by {self.spec.name} "
                f"({self.spec.codec_id}): choose the codec and the weights that it was written with."
            )
        shape = container.shape
        if len(shape) != 3 or shape[0] != 3 or container.backend:
            raise BitstreamError(f"A signal of shape {shape} is not one of {self.spec.name}.")
        grid = grid_shape(shape[1:], self._multiple)
        # Their decoder reads past the end of a string that is too short; zeros there are decoded to no end of harm.
        symbols = self._model.M * (grid[0] * grid[1] * self._multiple**2 // 16**2)
        strings = [
            [string + bytes(4 * symbols + 16 * len(string))] for string in _split(container.payload, container.channels)
        ]
        try:
            x_hat = self._model.decompress(strings, torch.Size(grid))["x_hat"][0]
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            raise BitstreamError(
                f"{self.spec.name} cannot decode this payload: {error or type(error).__name__}."
            ) from error
        if not x_hat.isfinite().all():
            raise BitstreamError(f"The payload decodes to no picture with {self.spec.name}.")
        return crop(x_hat * 2 - 1, shape[1:]).clamp(-1, 1)


def _split(payload: bytes, count: int) -> list[bytes]:
    """The strings of a payload: the lengths of all but the last, then the strings."""
    head = _LENGTH * (count - 1)
    lengths = [int.from_bytes(payload[i : i + _LENGTH], "little") for i in range(0, head, _LENGTH)]
    if count < 1 or head + sum(lengths) > len(payload):
        raise BitstreamError("The payload does not hold the strings that it promises.")
    strings = []
    for length in lengths:
        strings.append(payload[head : head + length])
        head += length
    return [*strings, payload[head:]]


def load_compressai(name: str, quality: int = 3, metric: str = "mse", weights: str | None = None) -> CompressAi:
    """The codec of "compressai:MODEL".

    Args:
        name: with one of `MODELS`.
        quality: 1 to 8, 6 for cheng2020: the trained trade-offs of rate and distortion.
        metric: what the weights were trained for, `mse` or `ms-ssim`.
        weights: a file with the state dict of that model and quality; None for CompressAI's own, fetched once.

    Raises:
        CodecError: CompressAI is not installed, or an option is out of range.
        CmlError: unknown model, or weights that are missing or do not fit.
    """
    model = name.partition(":")[2]
    if model not in MODELS:
        raise CmlError(f"compressai: has no model {model!r}: use one of {', '.join(MODELS)}.")
    if metric not in METRICS:
        raise CodecError(f"{name} knows metric=mse and metric=ms-ssim, not {metric!r}.")
    zoo = import_zoo()
    highest = max(zoo.cfgs[model])
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= highest:
        raise CodecError(f"{name} takes a whole number from 1 to {highest} as quality, not {quality!r}.")
    options: dict[str, Any] = {"quality": quality}
    options |= {} if metric == METRICS[0] else {"metric": metric}
    options |= {} if weights is None else {"weights": weights}
    state = _read(Path(weights)) if weights is not None else _fetch(zoo, name, model, metric, quality)
    try:
        network = zoo.model_architectures[model].from_state_dict(zoo.load_pretrained(state)).eval()
        network.requires_grad_(False).update()  # tables that a checkpoint of training lacks
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        source = weights or "The file of CompressAI's server"
        raise CmlError(f"{source} does not hold the weights of {model}: {str(error).splitlines()[0]}.") from error
    return CompressAi(name, network, options, {"metric": metric, "compressai": version("compressai")})


def import_zoo() -> Any:
    """The module of CompressAI's pre-trained image models."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            return importlib.import_module("compressai.zoo.image")
    except ImportError as error:
        raise CodecError(
            f"compressai: needs CompressAI ({error}), which asks for an older numpy than it runs with: {INSTALL}."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    checkpoint = hub.read_checkpoint(path)
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CmlError(f"{path} holds no state dict: it must map names to tensors.")
    return state


def _fetch(zoo: Any, name: str, model: str, metric: str, quality: int) -> dict[str, Tensor]:
    url = zoo.model_urls[model].get(metric, {}).get(quality)
    if url is None:
        raise CmlError(f"CompressAI has no weights for {name},quality={quality},metric={metric}; give weights=FILE.")
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
    except Exception as error:  # no network, a full disk, a file cut short
        raise CmlError(
            f"Cannot fetch the weights of {name},quality={quality} ({type(error).__name__}): bring {url} and name the "
            "file, weights=FILE."
        ) from error
