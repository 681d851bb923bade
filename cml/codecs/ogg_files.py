"""Opus and Vorbis, in Ogg; what holds for all files of sound is said in `cml.codecs.sound_files`."""

import io
from typing import Any

import torch
from torch import Tensor

from cml.codecs import av_files, ogg
from cml.codecs.conventional import check_option
from cml.codecs.sound_files import RATE, SoundFile, av_settings
from cml.errors import BitstreamError, CodecError


class Opus(SoundFile):
    """Opus by libopus: variable bit rate, frames of 20 ms, 48 kHz inside; read by FFmpeg's own decoder.

    More than two channels are coded each by itself (mapping family 255): nothing is taken for the loudspeakers of a
    room.

    Args:
        kbps: kbit/s to aim at, of all channels together; 0.5 to 256 a channel, of which some 5 are the least that
            comes out.
        application: `audio`, or `voip`, tuned for speech.
        complexity: 0 (fast) to 10.
        rate: samples a second of the signals.
    """

    format = "opus"
    _INSIDE, _MAGIC, _SKIP, _RATE_AT = 48000, b"OpusHead", slice(10, 12), slice(12, 16)
    _PACKET = 960  # samples of 20 ms
    # FFmpeg's decoder is 6 samples late, measured, where the first packet is narrow-band speech (numbers 0 to 3 of the
    # mode, in the upper five bits of its first byte); in all other modes it is on time, within half a sample.
    _LATE, _WIDER = 6, 4 << 3
    _USUAL = ("audio", 10)

    def __init__(self, kbps: float = 64, application: str = "audio", complexity: int = 10, rate: int = RATE):
        check_option("opus", "kbps", kbps, 0.5, 100_000, whole=False)
        check_option("opus", "complexity", complexity, 0, 10)
        if application not in ("audio", "voip"):
            raise CodecError(f"opus takes the application audio or voip, not {application!r}.")
        self._kbps = kbps
        self._options = {"application": application, "compression_level": str(complexity)}
        chosen = {"application": application, "complexity": complexity}
        named = {item: chosen[item] for item, usual in zip(chosen, self._USUAL, strict=True) if chosen[item] != usual}
        super().__init__(254, rate, None, {"kbps": kbps, **named}, {**chosen, **av_settings("libopus")})

    def rate_inside(self, channels: int) -> int:
        return self._INSIDE

    def _write(self, x: Tensor, rate: int) -> bytes:
        share = self._kbps / len(x)
        if not 0.5 <= share <= 256:
            raise CodecError(
                f"opus has 0.5 to 256 kbit/s a channel, and {self._kbps:g} for {len(x)} channels are {share:.3g}."
            )
        family = {"mapping_family": "255"} if len(x) > 2 else {}
        # Pages as long as Ogg allows: fewer headers.
        format = av_files.AvFormat("ogg", "libopus", "flt", self._options | family, {"page_duration": "5000000"})
        return av_files.encode(x.numpy(), rate, format, round(1000 * self._kbps))

    def _sign(self, blob: bytes, inside: int, more: int) -> bytes:
        blob = ogg.patched(blob, self._RATE_AT.start, self.rate.to_bytes(4, "little"))
        return super()._sign(blob, inside, more) if self.rate > inside else blob

    @classmethod
    def _signature(cls, blob: bytes) -> tuple[bytes, int | None, int]:
        file, rate, more = super()._signature(blob)
        told = int.from_bytes(ogg.first_packet(file)[cls._RATE_AT], "little")
        # A file of others may leave the field empty, or tell a higher rate, of which it cannot tell the length.
        return file, rate or (told if 0 < told <= cls._INSIDE else None), more

    @classmethod
    def _rate_of(cls, blob: bytes) -> int:
        return cls._INSIDE

    def _read(self, blob: bytes) -> tuple[Tensor, int]:
        pages = list(ogg.pages(blob))
        samples, rate, _ = av_files.decode(blob, "ogg")
        length = ogg.granule(pages[-1]) - int.from_bytes(ogg.first_packet(blob)[self._SKIP], "little")
        first = next((ogg.first_packet(page) for page in pages if ogg.granule(page) in range(1, 1 << 63)), b"")
        narrow = first[:1] < bytes([self._WIDER])
        x = torch.from_numpy(samples[:, self._LATE if narrow else 0 :])
        # Those left out at the front, and some that the decoder holds back at the end of a file of one packet.
        missing = length - x.shape[1]
        if length < 1 or missing > self._PACKET or not x.numel():
            raise BitstreamError("The Opus file is damaged: it does not hold the samples that it tells.")
        if missing > 0:
            x = torch.nn.functional.pad(x[None], (0, missing), mode="replicate")[0]
        return x[:, :length], rate

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return ogg.first_packet(blob).startswith(cls._MAGIC)


class Vorbis(SoundFile):
    """Vorbis by libvorbis, through the package soundfile: variable bit rate. Its tables take some 4 kB of every file.

    Args:
        quality: 0 (worst) to 10.
        inside: samples a second in the file; None for those of the signal. Fewer are the way to low bit rates.
        rate: samples a second of the signals.
    """

    format = "vorbis"
    _MAGIC, _RATE_AT = b"\x01vorbis", slice(12, 16)
    _LOWEST, _HIGHEST = 8000, 192_000
    _BLOCK = 1 << 16  # samples written at once; libsndfile puts them on its stack

    def __init__(self, quality: float = 4, inside: int | None = None, rate: int = RATE):
        check_option("vorbis", "quality", quality, 0, 10, whole=False)
        if inside is not None:
            check_option("vorbis", "inside", inside, self._LOWEST, self._HIGHEST)
        self._quality, self._soundfile = quality, _load_soundfile()
        settings = {"encoder": "libvorbis", "libsndfile": self._soundfile.__libsndfile_version__}
        super().__init__(255, rate, inside, {"quality": quality}, settings)

    def rate_inside(self, channels: int) -> int:
        return self.inside or min(max(self.rate, self._LOWEST), self._HIGHEST)

    def _write(self, x: Tensor, rate: int) -> bytes:
        buffer, samples = io.BytesIO(), x.T.numpy()
        how = {"format": "OGG", "subtype": "VORBIS", "compression_level": 1 - self._quality / 10}
        try:
            with self._soundfile.SoundFile(buffer, "w", rate, len(x), **how) as file:
                for start in range(0, len(samples), self._BLOCK):
                    file.write(samples[start : start + self._BLOCK])
        except self._soundfile.SoundFileError as error:
            raise CodecError(f"libvorbis does not encode {len(x)} channel(s) at {rate} Hz: {error}") from error
        return ogg.with_serial(buffer.getvalue(), 0)

    def _read(self, blob: bytes) -> tuple[Tensor, int]:
        for _ in ogg.pages(blob):  # each is checked
            pass
        try:
            samples, rate = self._soundfile.read(io.BytesIO(blob), dtype="float32", always_2d=True)
        except self._soundfile.SoundFileError as error:
            raise BitstreamError(f"These bytes are no whole Vorbis file: {error}") from error
        if not samples.size:
            raise BitstreamError("The Vorbis file holds no samples.")
        return torch.from_numpy(samples.T.copy()), rate

    @classmethod
    def _rate_of(cls, blob: bytes) -> int:
        return max(1, int.from_bytes(ogg.first_packet(blob)[cls._RATE_AT], "little"))

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return ogg.first_packet(blob).startswith(cls._MAGIC)


def _load_soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise CodecError("vorbis needs the package soundfile: pip install 'cml-toolkit[sound]'.") from error
    return soundfile
