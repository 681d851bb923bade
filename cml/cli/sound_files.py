"""Sound through `cml encode` and `cml decode`."""

from pathlib import Path

from cml.errors import CmlError, DataError

CODECS = {1: "mono_f64c64", 2: "stereo_f64c128", 4: "foa_f32c48"}
"""By channels, where no codec is named."""


def is_sound(path: Path) -> bool:
    """Whether a file is sound, by its suffix."""
    from cml.data.sound import SOUND_SUFFIXES

    return path.suffix.lower() in SOUND_SUFFIXES


def encode_sound(
    path: Path, target: Path, codec: str | None, bpp: float | None, kbps: float | None, max_bytes: int | None
) -> str:
    """Encode a sound file; its sampling rate and bit depth travel in the container. Returns what to tell."""
    from cml.codecs.bitstream import attach, is_container
    from cml.codecs.factory import create_codec
    from cml.codecs.rate import fit_bytes, for_sampling_rate, match_rate
    from cml.data.sound import read_sound
    from cml.files import write_atomic

    sound = read_sound(path)
    channels, length = sound.samples.shape
    name = codec or CODECS.get(channels)
    if name is None:
        raise CmlError(
            f"{path} has {channels} channels, and no bundled codec of sound takes as many (those for "
            f"{', '.join(map(str, CODECS))} do): mix it down, or fit a codec of your own with `cml train codec`."
        )
    name = for_sampling_rate(name, sound.rate)
    facts = {"rate": sound.rate, "bits": sound.bit_depth}
    if kbps is not None:
        bpp = 1000 * kbps / sound.rate
    if bpp is not None:
        chosen, blob = match_rate(name, sound.samples, bpp)
    elif max_bytes is not None:
        chosen, blob = fit_bytes(name, sound.samples, max_bytes)
    else:
        chosen = create_codec(name)
        blob = chosen.compress(sound.samples)
    blob = attach(blob, facts) if is_container(blob) else blob
    write_atomic(target, blob)
    seconds = length / sound.rate
    whole = channels * length * sound.bit_depth / 8
    return (
        f"{target}: {len(blob)} bytes, {8 * len(blob) / seconds / 1000:.2f} kbit/s, {whole / len(blob):.1f}:1, "
        f"{chosen.spec.name}"
    )


def decode_sound(blob: bytes, codec: str | None, target: Path) -> str:
    """Decode bytes of a codec of sound to a file, at the rate and bit depth that they tell."""
    from cml.codecs.bitstream import facts
    from cml.codecs.factory import create_codec, identify
    from cml.data.sound import write_sound

    chosen = create_codec(codec) if codec else identify(blob)
    told = facts(blob)
    rate = told.get("rate", chosen.spec.settings.get("rate"))
    if not isinstance(rate, int) or rate < 1:
        raise DataError(
            "These bytes do not tell their sampling rate, so they cannot become a file; decode them from Python, "
            "cml.decompress, or encode the sound with `cml encode`."
        )
    x = chosen.decompress(blob)
    bits = told.get("bits", 16)
    loudest = float(x.abs().max())
    write_sound(target, x, rate, bits if target.suffix.lower() == ".wav" or bits != 32 else 24)
    seconds = x.shape[1] / rate
    clipped = ", cut off at full scale" if loudest > 1 and bits != 32 else ""
    return f"{target}: {seconds:.2f} s at {rate} Hz, {len(x)} channel(s), {chosen.spec.name.partition(':')[0]}{clipped}"


def find_files(folder: Path) -> list[Path]:
    """The pictures of a folder, or its sounds; both together are refused."""
    from cml.data.signals import IMAGE_SUFFIXES, find_images
    from cml.data.sound import SOUND_SUFFIXES, find_sounds

    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    found = {path.suffix.lower() for path in folder.rglob("*") if path.is_file()}
    if found & IMAGE_SUFFIXES and found & SOUND_SUFFIXES:
        raise DataError(f"{folder} holds both pictures and sounds: encode them from a folder each.")
    return find_sounds(folder) if found & SOUND_SUFFIXES else find_images(folder)
