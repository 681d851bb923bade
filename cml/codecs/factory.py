"""Making codecs by name, and finding the codec of some bytes."""

import importlib
import inspect
import re
from functools import cache
from typing import Any

from torch import Tensor

from cml import hub
from cml.codecs.base import Codec
from cml.codecs.bitstream import Container, is_container
from cml.codecs.blocks import blocks, decompress_blocks, is_sequence
from cml.codecs.neural import load_wavelet_codec
from cml.errors import BitstreamError, CmlError, CodecError
from cml.registry import Registry, unknown

CODECS = Registry(
    "codec",
    {
        "identity": "cml.codecs.resample:Identity",
        "resize": "cml.codecs.resample:Resize",
        "jpeg": "cml.codecs.conventional:Jpeg",
        "jpeg2000": "cml.codecs.conventional:Jpeg2000",
        "webp": "cml.codecs.conventional:WebP",
        "avif": "cml.codecs.conventional:Avif",
        "jpegxl": "cml.codecs.jpegxl:JpegXl",
        "jpegls": "cml.codecs.jpegls:JpegLs",
        "heic": "cml.codecs.heif:Heic",
        "png": "cml.codecs.lossless:Png",
        "webp-lossless": "cml.codecs.lossless:WebPLossless",
        "bits": "cml.codecs.bits:Bits",
        "vq": "cml.codecs.vq:VectorQuantizer",
        "resample": "cml.codecs.resample_sound:Resample",
        "opus": "cml.codecs.ogg_files:Opus",
        "vorbis": "cml.codecs.ogg_files:Vorbis",
        "mp3": "cml.codecs.sound_files:Mp3",
        "aac": "cml.codecs.sound_files:Aac",
        "flac": "cml.codecs.sound_files:Flac",
        "slices-jpeg2000": "cml.codecs.slices:SlicesJpeg2000",
        "slices-jpegxl": "cml.codecs.slices:SlicesJpegXl",
        "slices-hevc": "cml.codecs.slices:SlicesHevc",
        "zfp": "cml.codecs.floating:Zfp",
        "sz3": "cml.codecs.floating:Sz3",
        "sperr": "cml.codecs.floating:Sperr",
        "downsample": "cml.codecs.downsample:Downsample",
        "x264": "cml.codecs.video_files:X264",
        "x265": "cml.codecs.video_files:X265",
        "vp9": "cml.codecs.video_files:Vp9",
        "av1": "cml.codecs.video_files:Av1",
        "frames-jpeg": "cml.codecs.frames:FramesJpeg",
        "frames-avif": "cml.codecs.frames:FramesAvif",
        "decimate": "cml.codecs.downsample:Decimate",
    },
)

# Codecs named with what holds their weights, "vae:FOLDER".
_LOADERS = {
    "walloc": "cml.codecs.published:load_published",
    "livecodec": "cml.codecs.published:load_published",
    "vae": "cml.codecs.diffusers_vae:load_vae",
    "cosmos": "cml.codecs.diffusers_vae:load_vae",
    "cosmos-video": "cml.codecs.diffusers_vae:load_vae",
    "taef2": "cml.codecs.taef2:load_taef2",
    "compressai": "cml.codecs.compressai:load_compressai",
    "encodec": "cml.codecs.sound_neural:load_sound_network",
    "dac": "cml.codecs.sound_neural:load_sound_network",
    "mimi": "cml.codecs.sound_neural:load_sound_network",
    "lyra": "cml.codecs.lyra:load_lyra",
}

# Codecs made in this process, so that `decompress` finds one whose weights or description lie in a file.
_seen: dict[str, str] = {}


def parse_operating_point(text: str) -> tuple[str, dict[str, Any]]:
    """ "jpeg:quality=10,subsampling=4:4:4" to ("jpeg", {"quality": 10, "subsampling": "4:4:4"}).

    After a name with a colon of its own a comma reads better, "command:vtm.yaml,qp=32"; either mark will do.
    """
    match = re.fullmatch(r"(?P<name>.+?)(?:[:,](?P<options>\w+=.*))?", text.strip())
    if not match:
        raise CodecError("The name of a codec is empty; `cml list` shows the names.")
    options: dict[str, Any] = {}
    for part in (match["options"] or "").split(",") if match["options"] else []:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise CodecError(
                f"Cannot read the option {part!r} in {text!r}: options look like name:key=value,key=value."
            )
        options[key.strip()] = _literal(value.strip())
    return match["name"], options


def _literal(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def create_codec(name: str, **options: Any) -> Codec:
    """A codec at an operating point.

    Args:
        name: "jpeg", "rgb_f8c48:step=0.5", a folder of config.json and model.safetensors, "hf:owner/name",
            a checkpoint of the papers' packages, "walloc:FILE.pth" or "livecodec:FILE", a learned rival,
            "vae:FOLDER", "cosmos:FOLDER", "cosmos-video:FOLDER", "taef2", "compressai:mbt2018,quality=3",
            of sound "encodec:FOLDER", "dac:FOLDER", "mimi:FOLDER", "lyra", or external programs, "command:FILE.yaml"
            (see `cml.codecs.command`).
        options: the same options as keywords; they win over those in the name.

    Raises:
        CodecError: unknown option or a value out of range.
        CmlError: unknown name.
    """
    name, written = parse_operating_point(name)
    options = written | options
    if name in CODECS:
        return _remember(_construct(CODECS.get(name), name, options))
    if name.startswith("command:"):
        from cml.codecs.command import Command

        return _remember(Command(name.removeprefix("command:"), options))
    kind = name.partition(":")[0]
    if kind in _LOADERS:
        module, _, function = _LOADERS[kind].partition(":")
        return _remember(_construct(getattr(importlib.import_module(module), function), name, options, name=name))
    folder = hub.locate(name)
    if folder is None:
        raise CmlError(
            unknown("codec", name, list_codecs())[:-1]
            + "; a codec of your own is a folder that holds config.json, or hf:owner/name."
        )
    codec = _construct(load_wavelet_codec, name, options, name=name, folder=folder)
    _seen[codec.spec.codec_id] = name if name.startswith("hf:") else str(folder.resolve())
    return codec


def _remember(codec: Codec) -> Codec:
    _seen[codec.spec.codec_id] = codec.spec.name
    return codec


def _construct(make: Any, label: str, options: dict[str, Any], **fixed: Any) -> Codec:
    accepted = [key for key in inspect.signature(make).parameters if key not in fixed]
    for key in options:
        if key not in accepted:
            raise CodecError(f"{label} has no option {key!r}; it takes {', '.join(accepted) or 'none'}.")
    return make(**fixed, **options)


def list_codecs(pattern: str = "*") -> list[str]:
    """Names that `create_codec` takes, conventional and bundled, that match a shell pattern such as "rgb_*"."""
    from fnmatch import filter as match

    return sorted([*CODECS.names(pattern), *match(hub.bundled_names(), pattern)])


@cache
def _bundled(codec_id: str) -> Codec | None:
    """The bundled codec of an id: loaded once, since reading its weights takes longer than decoding a small picture."""
    for name in hub.bundled_names():
        if hub.read_config(hub.BUNDLED / name).get("codec_id") == codec_id:
            return create_codec(name)
    return None


def identify(blob: bytes) -> Codec:
    """The codec that decodes some bytes: a cml container, or a file of a conventional codec.

    Raises:
        BitstreamError: no codec knows these bytes, or the container is damaged.
    """
    blob = next(blocks(blob)) if is_sequence(blob) else blob
    codec_id = Container.unpack(blob).codec_id if is_container(blob) else None
    bundled = _bundled(codec_id) if codec_id else None
    if bundled is not None and bundled.spec.codec_id != codec_id:
        _bundled.cache_clear()  # somebody has changed its weights since
        bundled = _bundled(codec_id or "")
    if bundled is not None:
        return bundled
    for kind in CODECS.loadable():
        codec = kind.claim(blob)
        if codec is not None:
            return codec
    if codec_id is None:
        raise BitstreamError("These bytes are neither a cml container nor a file of a known codec.")
    if codec_id in _seen:
        return create_codec(_seen[codec_id])
    raise BitstreamError(
        f"The container was written by codec {codec_id}, which is not bundled: name its folder or hub repository "
        "(cml decode --codec PATH, or create_codec(PATH).decompress)."
    )


def decompress(blob: bytes | bytearray | memoryview) -> Tensor:
    """Bytes of any known codec to a signal, float32 (C, *spatial) in [-1, 1]; the codec is found from the bytes."""
    blob = bytes(blob)
    codec = identify(blob)
    return decompress_blocks(codec, blob) if is_sequence(blob) else codec.decompress(blob)
