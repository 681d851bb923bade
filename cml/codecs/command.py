"""`command:FILE.yaml`: any external encoder and decoder as a codec, described in a few lines of yaml.

    encode: cjpeg -quality {quality} -outfile {output} {input}
    decode: djpeg -outfile {output} {input}
    options: {quality: 75}
    version: cjpeg -version

Keys: `encode` and `decode`, command lines without a shell; `options`, each a placeholder with its default value;
`picture`, the format that goes in and comes out, ppm (pgm for grey) or png; `suffix` of the encoded file; `channels`,
[1, 3] unless told; `timeout` in seconds; `name` for messages; `version`, a command whose first line is kept with
results. Placeholders beside the options: {input}, {output}, {width}, {height}, {channels}, and {here}, the folder of
the yaml file. Programs run in a temporary folder, so that what else they write is gone afterwards.

    encode: opusenc --quiet --bitrate {kbps} {input} {output}
    decode: opusdec --quiet --rate {rate} {input} {output}
    sound: wav
    options: {kbps: 24}

With `sound: wav` in the place of `picture` it is a codec of sound: files of 16 bits go in, `channels` is [1, 2] unless
told, there is always an option `rate`, samples a second, 44100 unless told, and {samples} for {width} and {height}.
What comes out must have that rate, and begin where the signal does; more samples than it had are left out.

The bytes are the program's file in a container of ours: 32 bytes or less, counted in the rate, for which
`cml.decompress` finds the codec again, the picture's shape travels, and damaged bytes never reach a foreign decoder.
"""

import shlex
import shutil
import string
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.bitstream import Container
from cml.codecs.conventional import UNREADABLE, from_pillow, open_picture, refuse_16_bits, to_pillow
from cml.codecs.pcm import to_int16
from cml.codecs.sound_files import RATE, check_rate
from cml.errors import BitstreamError, CodecError
from cml.files import read_bytes

_FORMATS = {"ppm": {1: ".pgm", 3: ".ppm"}, "png": {1: ".png", 3: ".png"}}
_FILES = ("input", "output")
_PLACES = (*_FILES, "width", "height", "channels", "here")
_SOUND_PLACES = (*_FILES, "samples", "channels", "here")


@dataclass(frozen=True)
class Description:
    """What the yaml file says; see the module.

    Raises:
        CodecError: a value of the wrong kind, a command line that cannot be read, an unknown placeholder.
    """

    encode: str
    decode: str
    name: str
    picture: str = "ppm"
    sound: str = ""
    suffix: str = ".bin"
    version: str = ""
    timeout: float = 600
    channels: tuple[int, ...] = (1, 3)
    options: Mapping[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self):
        for key in ("encode", "decode", "name", "picture", "sound", "suffix", "version"):
            if not isinstance(getattr(self, key), str):
                raise CodecError(f"{key} is text, not {getattr(self, key)!r}.")
        if self.picture not in _FORMATS:
            raise CodecError(f"picture is {' or '.join(_FORMATS)}, not {self.picture!r}.")
        if self.sound not in ("", "wav"):
            raise CodecError(f"sound is wav, or left out for pictures, not {self.sound!r}.")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, (int, float)) or not self.timeout > 0:
            raise CodecError(f"timeout is a number of seconds above 0, not {self.timeout!r}.")
        self._check_channels()
        for key, value in self.options.items():
            check_value(key, value)
            if key in self.places:
                raise CodecError(f"{{{key}}} stands for something else: give the option another name.")
        for key, needed in (("encode", _FILES), ("decode", _FILES), ("version", ())):
            fields = fields_of(getattr(self, key))
            known = (*self.places, *self.options) if needed else ("here",)
            for unknown in sorted(fields - set(known)):
                raise CodecError(f"Unknown placeholder {{{unknown}}} in {key}: known are {', '.join(known)}.")
            for missing in sorted(set(needed) - fields):
                raise CodecError(f"{key} has no {{{missing}}}: say where that file's path goes.")

    def _check_channels(self) -> None:
        if self.sound and not all(type(count) is int and 0 < count < 256 for count in self.channels or ("none",)):
            raise CodecError(f"channels is a list of numbers from 1 to 255, not {list(self.channels)}.")
        if not self.sound and self.channels not in ((1,), (3,), (1, 3)):
            raise CodecError(f"channels is [1], [3] or [1, 3], not {list(self.channels)}.")

    @property
    def places(self) -> tuple[str, ...]:
        """The placeholders that are not options."""
        return _SOUND_PLACES if self.sound else _PLACES


def check_value(key: Any, value: Any) -> None:
    """Raise CodecError unless an option can be written into an operating point and read again."""
    written = isinstance(value, (int, float, str)) and not isinstance(value, bool) and str(value).strip() == str(value)
    if not (isinstance(key, str) and key.isidentifier() and written and str(value) and "," not in str(value)):
        raise CodecError(f"An option is a name with a number or a text without commas, not {key!r}: {value!r}.")


def fields_of(command: str) -> set[str]:
    """The placeholders of a command line."""
    try:
        return {
            name for word in shlex.split(command) for _, name, *_ in string.Formatter().parse(word) if name is not None
        }
    except ValueError as error:
        raise CodecError(f"Cannot read the command {command!r}: {error}.") from error


def read_description(file: Path) -> Description:
    """Read a yaml file, or raise a CodecError that names it."""
    import yaml

    try:
        raw = yaml.safe_load(read_bytes(file))
    except yaml.YAMLError as error:
        raise CodecError(f"{file} is no yaml: {' '.join(str(error).split())}.") from error
    known = list(Description.__dataclass_fields__)
    if not isinstance(raw, dict) or not {"encode", "decode"} <= set(raw):
        raise CodecError(f"{file} describes no codec: it needs at least the keys encode and decode.")
    for key in raw:
        if key not in known:
            raise CodecError(f"{file}: unknown key {key!r}; known are {', '.join(known)}.")
    channels, options = raw.get("channels", [1, 2] if raw.get("sound") else [1, 3]), raw.get("options", {})
    if not isinstance(channels, list) or not isinstance(options, dict):
        raise CodecError(f"{file}: channels is a list, and options a mapping of names to default values.")
    options = {**({"rate": RATE} if raw.get("sound") else {}), **options}
    values: dict[str, Any] = {"name": file.stem, **raw, "channels": tuple(channels), "options": options}
    try:
        return Description(**values)
    except CodecError as error:
        raise CodecError(f"{file}: {error}") from error


def _line(output: bytes, which: int) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[which] if lines else ""


class Command(Codec):
    """x --8-bit picture file--> encode --> its bytes, in a container --> decode --picture file--> x_hat.

    Times measured of it hold the start of a process and two files.

    Args:
        file: the yaml file.
        options: values in place of the defaults.

    Raises:
        CodecError: a description that makes no sense, an unknown option, a program that is not installed.
        DataError: no such file.
    """

    def __init__(self, file: str, options: Mapping[str, Any]):
        what = self._what = read_description(Path(file))
        self._here = Path(file).resolve().parent
        for key, value in options.items():
            if key not in what.options:
                raise CodecError(f"{what.name} has no option {key!r}; it takes {', '.join(what.options) or 'none'}.")
            check_value(key, value)
        self._options = {**what.options, **options}
        values = ",".join(f"{key}={value}" for key, value in self._options.items())
        for command in filter(None, (what.encode, what.decode, what.version)):
            program = self._words(command, dict.fromkeys(what.places, 1))[0]
            if shutil.which(program) is None:
                raise CodecError(f"{what.name} needs the program {program}, which is not there: install it ({file}).")
        format = {"sound": what.sound} if what.sound else {"picture": what.picture}
        described = {"encode": what.encode, "decode": what.decode, **format, "suffix": what.suffix}
        if what.sound:
            check_rate(what.name, self._options["rate"])
        # What the decoder is told must be known to whoever decodes, so it belongs to the codec's identity.
        told = {key: value for key, value in self._options.items() if key in fields_of(what.decode)}
        self._spec = CodecSpec(
            name=f"command:{file}" + (f",{values}" if values else ""),
            ndim=1 if what.sound else 2,
            channels=what.channels,
            codec_id=fingerprint({"codec": "command", "version": 1, **described, "told": told}),
            settings={
                "program": what.name,
                **described,
                "options": self._options,
                **({"version": self._version()} if what.version else {}),
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _words(self, command: str, values: Mapping[str, Any]) -> list[str]:
        try:
            return [word.format(**self._options | {**values, "here": self._here}) for word in shlex.split(command)]
        except (ValueError, AttributeError, IndexError, KeyError) as error:
            raise CodecError(f"{self._what.name}: cannot fill in the command {command!r}: {error}.") from error

    def _start(self, command: str, folder: str, values: Mapping[str, Any]) -> subprocess.CompletedProcess[bytes]:
        words = self._words(command, values)
        try:
            return subprocess.run(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._what.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CodecError(
                f"{self._what.name}: {words[0]} was not done after {self._what.timeout:g} s; give it a longer timeout."
            ) from error
        except OSError as error:
            raise CodecError(f"{self._what.name}: {words[0]} cannot be started: {error.strerror or error}.") from error

    def _version(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            done = self._start(self._what.version, folder, {})
        return _line(done.stdout + b"\n" + done.stderr, 0)

    def _run(self, command: str, source: Path, target: Path, shape: tuple[int, ...]) -> None:
        size = {"samples": shape[1]} if self._what.sound else {"width": shape[2], "height": shape[1]}
        values = {"input": source, "output": target, "channels": shape[0], **size}
        done = self._start(command, str(source.parent), values)
        program = shlex.split(command)[0]
        if done.returncode:
            reason = _line(done.stderr, -1) or _line(done.stdout, -1) or "it says nothing"
            raise CodecError(f"{self._what.name}: {program} failed with exit code {done.returncode}: {reason}")
        if not target.is_file() or not target.stat().st_size:
            raise CodecError(
                f"{self._what.name}: {program} wrote nothing to {{output}}; look at the command {command!r}."
            )

    def _suffix(self, channels: int) -> str:
        return ".wav" if self._what.sound else _FORMATS[self._what.picture][channels]

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        shape = tuple(x.shape)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "input" + self._suffix(len(x)))
            target = Path(folder, "output" + self._what.suffix)
            if self._what.sound:
                write_wav(source, x, int(self._options["rate"]))
            else:
                refuse_16_bits(self.spec.name, bit_depth)
                to_pillow(x).save(source)
            self._run(self._what.encode, source, target, shape)
            payload = target.read_bytes()
        return Container(self._spec.codec_id, 0.0, shape, 0, bit_depth, 0, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        shape = container.shape
        fits = len(shape) == self._spec.ndim + 1 and shape[0] in self._what.channels
        if container.codec_id != self._spec.codec_id or not fits:
            raise BitstreamError(f"The container was written by codec {container.codec_id}, not by {self.spec.name}.")
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "input" + self._what.suffix)
            target = Path(folder, "output" + self._suffix(shape[0]))
            source.write_bytes(container.payload)
            self._run(self._what.decode, source, target, shape)
            return self._read_sound(target, shape) if self._what.sound else self._read_picture(target, shape)

    def _read_picture(self, target: Path, shape: tuple[int, ...]) -> Tensor:
        try:
            picture = open_picture(target, ["PPM", "PNG"])
            picture.load()
        except UNREADABLE as error:
            raise CodecError(
                f"{self._what.name}: the decoder wrote no {self._what.picture} picture: {error}."
            ) from error
        if (picture.height, picture.width) != shape[1:] or picture.mode.startswith(("I", "F")):
            raise CodecError(
                f"{self._what.name}: the decoder wrote {picture.width}x{picture.height} of mode {picture.mode}, "
                f"not the 8-bit {shape[2]}x{shape[1]} that was encoded."
            )
        return from_pillow(picture, shape[0])

    def _read_sound(self, target: Path, shape: tuple[int, ...]) -> Tensor:
        try:
            x, rate = read_wav(target)
        except (ValueError, OSError, EOFError, struct.error) as error:
            raise CodecError(f"{self._what.name}: the decoder wrote no wav file: {error}.") from error
        if len(x) != shape[0] or x.shape[1] < shape[1] or rate != self._options["rate"]:
            raise CodecError(
                f"{self._what.name}: the decoder wrote {len(x)} channel(s) of {x.shape[1]} samples at {rate} Hz, not "
                f"the {shape[0]} of {shape[1]} at {self._options['rate']} Hz that were encoded."
            )
        return x[:, : shape[1]].clamp(-1, 1)


def write_wav(path: Path, x: Tensor, rate: int) -> None:
    """(C, T) in [-1, 1] as a wav file of 16 bits."""
    from scipy.io import wavfile

    wavfile.write(path, rate, to_int16(x).T)


def read_wav(path: Path) -> tuple[Tensor, int]:
    """A wav file of integers or floats to (C, T) and its samples a second."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of the file that it does not know
        rate, samples = wavfile.read(path)
    x = np.atleast_2d(samples.T)
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 128 - 1
    elif np.issubdtype(x.dtype, np.integer):
        x = x.astype(np.float64) / -float(np.iinfo(x.dtype).min)
    x = torch.from_numpy(x.astype(np.float32))
    if not x.isfinite().all():
        raise ValueError("it holds NaN or infinity")
    return x, rate
