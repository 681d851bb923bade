"""cml: a compressed-domain machine-learning toolkit.

Encode once with a cheap neural wavelet codec, then store, send, load and learn from its quantized latents; measure
how much of what a machine can do survives a codec. Names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cml.codecs.base import Codec as Codec
    from cml.codecs.base import CodecSpec as CodecSpec
    from cml.codecs.base import Latent as Latent
    from cml.codecs.factory import create_codec as create_codec
    from cml.codecs.factory import decompress as decompress
    from cml.codecs.factory import list_codecs as list_codecs
    from cml.codecs.fit import fit_codec as fit_codec
    from cml.codecs.stream import StreamEncoder as StreamEncoder
    from cml.data.augment import LatentAugment as LatentAugment
    from cml.data.datasets import load_dataset as load_dataset
    from cml.data.encode_dataset import encode_dataset as encode_dataset
    from cml.data.latent_dataset import LatentDataset as LatentDataset
    from cml.data.loading import latent_loader as latent_loader
    from cml.data.samples import SignalFile as SignalFile
    from cml.data.signal_files import read_signal as read_signal
    from cml.data.signal_files import write_signal as write_signal
    from cml.data.signals import read_image as read_image
    from cml.data.signals import write_image as write_image
    from cml.data.sound import Sound as Sound
    from cml.data.sound import read_sound as read_sound
    from cml.data.sound import write_sound as write_sound
    from cml.data.stored import LatentFolder as LatentFolder
    from cml.data.stored import LatentShards as LatentShards
    from cml.data.stored import write_shard as write_shard
    from cml.errors import BitstreamError as BitstreamError
    from cml.errors import CmlError as CmlError
    from cml.errors import CodecError as CodecError
    from cml.errors import DataError as DataError
    from cml.eval.harness import compare as compare
    from cml.models.adapters import adapt as adapt
    from cml.train.classifier import load_classifier as load_classifier

__version__ = "0.1.0"

_LAZY = {
    "Codec": "cml.codecs.base",
    "CodecSpec": "cml.codecs.base",
    "Latent": "cml.codecs.base",
    "create_codec": "cml.codecs.factory",
    "decompress": "cml.codecs.factory",
    "list_codecs": "cml.codecs.factory",
    "fit_codec": "cml.codecs.fit",
    "StreamEncoder": "cml.codecs.stream",
    "LatentAugment": "cml.data.augment",
    "load_dataset": "cml.data.datasets",
    "encode_dataset": "cml.data.encode_dataset",
    "LatentDataset": "cml.data.latent_dataset",
    "latent_loader": "cml.data.loading",
    "SignalFile": "cml.data.samples",
    "read_signal": "cml.data.signal_files",
    "write_signal": "cml.data.signal_files",
    "read_image": "cml.data.signals",
    "write_image": "cml.data.signals",
    "Sound": "cml.data.sound",
    "read_sound": "cml.data.sound",
    "write_sound": "cml.data.sound",
    "LatentFolder": "cml.data.stored",
    "LatentShards": "cml.data.stored",
    "write_shard": "cml.data.stored",
    "BitstreamError": "cml.errors",
    "CmlError": "cml.errors",
    "CodecError": "cml.errors",
    "DataError": "cml.errors",
    "compare": "cml.eval.harness",
    "adapt": "cml.models.adapters",
    "load_classifier": "cml.train.classifier",
}
# The keys are strings, which neither tool can tell.
__all__ = ["__version__", *_LAZY]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'cml' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
