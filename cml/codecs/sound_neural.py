"""Neural codecs of sound that transformers has: EnCodec, DAC, Mimi.

    encodec:FOLDER         EncodecModel: 24 kHz mono, 48 kHz stereo
    dac:FOLDER             DacModel: 16, 24, 44.1 kHz mono
    mimi:FOLDER            MimiModel: 24 kHz mono, speech
    mimi:hf:OWNER/NAME     the same from the Hugging Face hub

A folder holds config.json and model.safetensors, as transformers saves them. The networks see a whole signal at once.

    x (C, T) --resample--> rate inside --encoder, residual vector quantizer--> codes --log2(size) bits each--> bytes
    x_hat <--resample, cut-- rate inside <--decoder------------------------- codes <------------------------- bytes

Nothing codes the codes further: their bits are what the authors print as the rate, here in a container. A network for
mono takes any number of channels, one at a time. Another machine's encoder may choose another code where two are near.
"""

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cml import hub
from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.bitstream import Container
from cml.codecs.conventional import check_option
from cml.codecs.resample_sound import resample
from cml.codecs.sound_files import RATE, check_rate, point_name
from cml.errors import BitstreamError, CmlError, CodecError


class CodeCodec(Codec):
    """A codec whose encoder gives whole numbers of a known range: the container and the resampling around it.

    Args:
        name: what makes this codec again, without options.
        inside: samples a second that the network takes.
        sides: channels that it takes at once, 1 or 2.
        codebooks: numbers for each of its frames.
        size: values that each number has, a power of two.
        rate: samples a second of the signals.
        codec_id: of network and weights.
        options: those of the operating point, beside the rate.
        settings: what else belongs with a result.
    """

    def __init__(
        self, name: str, *, inside: int, sides: int, codebooks: int, size: int, rate: int, codec_id: str,
        options: dict[str, Any], settings: dict[str, Any], usual_rate: int = RATE,
    ):  # fmt: skip
        check_rate(name, rate)
        self.rate, self.inside, self.codebooks = rate, inside, codebooks
        self._sides, self._bits = sides, size.bit_length() - 1
        if size != 1 << self._bits:
            raise CodecError(f"{name} has codebooks of {size} entries, and only powers of two fill whole bits.")
        named = options | ({} if rate == usual_rate else {"rate": rate})
        self._spec = CodecSpec(
            name=point_name(name, named, "," if ":" in name else ":"),
            ndim=1,
            channels=(2,) if sides == 2 else tuple(range(1, 1025)),
            codec_id=codec_id,
            settings={"rate": rate, "inside": inside, "codebooks": codebooks, **settings},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @abstractmethod
    def _frames(self, length: int) -> int:
        """How many frames a signal of so many samples at the rate inside has."""

    @abstractmethod
    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, sides, T) at the rate inside to codes (B, codebooks, frames), and floats (B, any) that go with them."""

    @abstractmethod
    def _sound(self, codes: Tensor, floats: Tensor, length: int) -> Tensor:
        """The way back, to (B, sides, length)."""

    def _floats(self, length: int) -> int:
        """How many floats go with a signal."""
        return 0

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        samples = resample(x, self.rate, self.inside)
        codes, floats = self._codes(samples.reshape(-1, self._sides, samples.shape[1]))
        payload = floats.numpy().astype("<f4").tobytes() + pack_bits(codes.numpy(), self._bits)
        shape = tuple(x.shape)
        return Container(
            self._spec.codec_id, float(self.rate), shape, self.codebooks, bit_depth, 0, False, payload
        ).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        if container.codec_id != self._spec.codec_id or len(container.shape) != 2:
            raise BitstreamError(f"The container was written by codec {container.codec_id}, not by {self.spec.name}.")
        (channels, length), rate = container.shape, round(container.parameter)
        if channels % self._sides or rate < 1:
            raise BitstreamError("The container's header makes no sense for this codec.")
        batch, inside = channels // self._sides, -(-length * self.inside // rate)
        shape = (batch, container.channels, self._frames(inside))
        floats = batch * self._floats(inside)
        codes = unpack_bits(container.payload[4 * floats :], self._bits, shape)
        scales = np.frombuffer(container.payload[: 4 * floats], "<f4").reshape(batch, -1)
        x_hat = self._sound(torch.from_numpy(codes), torch.from_numpy(scales.astype(np.float32)), inside)
        samples = resample(x_hat.reshape(channels, -1).float(), self.inside, rate)[:, :length]
        if not samples.isfinite().all():
            raise BitstreamError(f"These codes are beyond what the network of {self.spec.name} computes with.")
        return samples.clamp(-1, 1)


def pack_bits(codes: np.ndarray, bits: int) -> bytes:
    """Whole numbers below 2^bits, in their order, `bits` each, the highest first."""
    flags = codes.reshape(-1, 1) >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(flags.astype(np.uint8)).tobytes()


def unpack_bits(payload: bytes, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The way back, int64; what does not have the length for that shape raises BitstreamError."""
    count = math.prod(shape)
    if len(payload) != -(-count * bits // 8):
        raise BitstreamError("The payload does not hold the codes that the header promises.")
    flags = np.unpackbits(np.frombuffer(payload, np.uint8), count=count * bits).reshape(-1, bits)
    return (flags.astype(np.int64) << np.arange(bits - 1, -1, -1)).sum(1).reshape(shape)


class SoundNetwork(CodeCodec):
    """A network of transformers, with so many of its codebooks."""

    def __init__(self, name: str, network: Any, most: int, codebooks: int | None, rate: int, version: str):
        config = network.config
        label = name.partition(":")[0]
        if codebooks is not None:
            check_option(label, "codebooks", codebooks, 1, most)
        self.network: Any = network.float().eval().requires_grad_(False)
        weights = [tensor.cpu().contiguous().numpy().tobytes() for _, tensor in sorted(network.state_dict().items())]
        facts = {"codec": label, "version": 1, "inside": config.sampling_rate, "hop": self._hop}
        super().__init__(
            name,
            inside=config.sampling_rate,
            sides=getattr(config, "audio_channels", 1),
            codebooks=codebooks or most,
            size=config.codebook_size,
            rate=rate,
            codec_id=fingerprint(facts, *weights),
            options={} if codebooks is None else {"codebooks": codebooks},
            settings={"network": type(network).__name__, "transformers": version},
        )

    @property
    def _hop(self) -> int:
        return self.network.config.hop_length

    def _frames(self, length: int) -> int:
        return -(-length // self._hop)

    def _whole(self, x: Tensor) -> Tensor:
        """Filled with silence to whole frames."""
        return nn.functional.pad(x, (0, self._frames(x.shape[-1]) * self._hop - x.shape[-1]))

    def _sized(self, x: Tensor, length: int) -> Tensor:
        x = nn.functional.pad(x, (0, max(0, length - x.shape[-1])))
        return x[..., :length]


class Encodec(SoundNetwork):
    """EnCodec (Défossez et al., 2022). The one of 48 kHz works in parts of a second, each with its level as a float."""

    def _parts(self, length: int) -> list[int]:
        """Frames in each of the overlapping parts that the network is given one by one."""
        config = self.network.config
        size, stride = config.chunk_length or length, config.chunk_stride or length
        return [-(-min(size, length - start) // self._hop) for start in range(0, length, stride)]

    def _frames(self, length: int) -> int:
        return sum(self._parts(length))

    def _floats(self, length: int) -> int:
        return len(self._parts(length)) if self.network.config.normalize else 0

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        counts = self._parts(x.shape[-1])
        bandwidths = sorted(self.network.config.target_bandwidths)
        enough = (b for b in bandwidths if _encodec_codebooks(self.network, b) >= self.codebooks)
        encoded = self.network.encode(x, bandwidth=next(enough))
        parts = [part[:, : self.codebooks, :count] for part, count in zip(encoded.audio_codes, counts, strict=True)]
        normalize = self.network.config.normalize
        return torch.cat(parts, 2), torch.cat(list(encoded.audio_scales), 1) if normalize else torch.empty(len(x), 0)

    def _sound(self, codes: Tensor, floats: Tensor, length: int) -> Tensor:
        counts = self._parts(length)
        parts = codes.split(counts, 2)
        missing = counts[0] - counts[-1]
        stacked = torch.stack([nn.functional.pad(part, (0, counts[0] - part.shape[2])) for part in parts])
        scales = list(floats.split(1, 1)) if floats.shape[1] else [None] * len(counts)
        decoded = self.network.decode(stacked, scales, last_frame_pad_length=missing)
        return self._sized(decoded.audio_values, length)


class Dac(SoundNetwork):
    """The Descript audio codec (Kumar et al., 2023)."""

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.network.encode(self._whole(x), n_quantizers=self.codebooks).audio_codes
        return codes, torch.empty(len(x), 0)

    def _sound(self, codes: Tensor, floats: Tensor, length: int) -> Tensor:
        return self._sized(self.network.decode(audio_codes=codes).audio_values[:, None], length)


class Mimi(SoundNetwork):
    """Mimi, the codec of Moshi (Défossez et al., 2024)."""

    @property
    def _hop(self) -> int:
        return self.network.config.frame_size

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.network.encode(self._whole(x), num_quantizers=self.codebooks).audio_codes
        return codes, torch.empty(len(x), 0)

    def _sound(self, codes: Tensor, floats: Tensor, length: int) -> Tensor:
        return self._sized(self.network.decode(codes).audio_values, length)


def _encodec_codebooks(network: Any, bandwidth: float | None = None) -> int:
    """How many codebooks a bandwidth takes, the largest where none is given."""
    bandwidth = max(network.config.target_bandwidths) if bandwidth is None else bandwidth
    return min(network.quantizer.get_num_quantizers_for_bandwidth(bandwidth), len(network.quantizer.layers))


_KINDS: dict[str, tuple[str, type[SoundNetwork], Any]] = {
    "encodec": ("EncodecModel", Encodec, _encodec_codebooks),
    "dac": ("DacModel", Dac, lambda network: network.config.n_codebooks),
    "mimi": ("MimiModel", Mimi, lambda network: network.config.num_quantizers),
}


def load_sound_network(name: str, codebooks: int | None = None, rate: int = RATE) -> SoundNetwork:
    """The codec of "encodec:FOLDER", "dac:FOLDER" or "mimi:FOLDER", where FOLDER may be "hf:owner/name".

    Args:
        name: of the codec.
        codebooks: how many numbers a frame has, the first ones; None for all.
        rate: samples a second of the signals.

    Raises:
        CodecError: an option is out of range.
        CmlError: the files are missing, or not those of such a network.
    """
    kind, _, path = name.partition(":")
    label, make, most = _KINDS[kind]
    folder = hub.locate(path) if path else None
    if folder is None or not (folder / hub.WEIGHTS).is_file():
        raise CmlError(
            f"{path or 'The empty path'} holds no {hub.CONFIG} and {hub.WEIGHTS}: bring both, as transformers saves "
            f"them, and name their folder, {kind}:FOLDER, or a repository, {kind}:hf:OWNER/NAME."
        )
    network = _load(label, kind, folder)
    import transformers

    return make(name, network, most(network), codebooks, rate, transformers.__version__)


def _load(label: str, kind: str, folder: Path) -> Any:
    import transformers

    found = hub.read_config(folder).get("model_type")
    if found != kind:
        advice = f": use {found}:" if found in _KINDS else ""
        raise CmlError(f"{folder} holds a network of the type {found}, and {kind}: reads {label}{advice}.")
    try:
        network, report = getattr(transformers, label).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # whatever the reading of their files raises
        raise CmlError(f"Cannot read the network of {folder}: {str(error).strip().splitlines()[0]}") from error
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    if wrong:
        raise CmlError(
            f"{folder} does not hold the weights of its config: {len(wrong)} are missing or of another shape, "
            f"{wrong[0]} among them."
        )
    return network
