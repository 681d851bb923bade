"""What a recipe trains a codec on, and what it holds out: pictures, sounds, or signals of three axes."""

import hashlib
import itertools
from pathlib import Path

import torch
from torch import Tensor

from cml.codecs.level import measure, remove
from cml.data.signal_sets import load_signals
from cml.data.signals import find_images, read_image
from cml.data.sound import find_sounds, read_sound, resample
from cml.data.sound_sets import load_clips
from cml.errors import DataError
from cml.files import read_bytes
from cml.train.recipes import CodecRecipe


def read_signals(recipe: CodecRecipe) -> tuple[list[Tensor], list[Tensor]]:
    """The signals of a recipe: what it trains on, and the middles of those held out, to validate on.

    Pictures are uint8, the middles at most 512 a side. Sounds are float32, silent ones left out; the middles are at
    most 2^18 samples long. Volumes, cubes and videos are as their files have them, the middles at most 96 a side. All
    are brought to a peak of 1 where the codec does that.

    Raises:
        DataError: nothing is there, or a single signal, or one that does not fit the codec.
    """
    ndim = recipe.codec.get("ndim", 2)
    if ndim == 3:
        signals = _volumes(recipe.sources(), recipe.codec.get("channels", 1))
    else:
        signals = _pictures(recipe) if ndim == 2 else _sounds(recipe)
    if recipe.codec.get("level") == "peak":
        signals = [remove(x, measure(x)) for x in signals]
    if len(signals) < 2 and recipe.validation:
        raise DataError(f"{', '.join(recipe.data)} holds one signal; training needs one more, to validate on.")
    every = recipe.validation or len(signals) + 1
    first = min(every // 2, len(signals) - 1) if recipe.validation else len(signals)
    train = [signal for n, signal in enumerate(signals) if n % every != first]
    if recipe.mirror:
        train = [x * signs for x in train for signs in _mirrors(len(x))]
    longest = {1: 1 << 18, 2: 512, 3: 96}[ndim]
    return train, [_middle(signal, longest) for signal in signals[first::every]]


def _volumes(sources: list[str], channels: int) -> list[Tensor]:
    found = []
    for source in sources:
        given = load_signals(source)
        # A plain folder has no sides: all of it is material. Of a set, never the test split.
        for signal in given.test if Path(source).is_dir() and not given.train else given.train:
            x = signal.read().samples
            if len(x) != channels:
                raise DataError(f"{source}, {signal.name}, has {len(x)} channel(s), and the codec {channels}.")
            found.append(x)
    return found


def _pictures(recipe: CodecRecipe) -> list[Tensor]:
    channels, sets = recipe.codec.get("channels", 3), [source for source in recipe.sources() if _is_set(source)]
    folders = [source for source in recipe.sources() if source not in sets]
    files = _different([path for folder in folders for path in find_images(folder)])
    # A cube is a picture of as many channels as it has bands.
    cubes = [cube[0] for cube in _volumes(sets, 1)]
    if wrong := [len(cube) for cube in cubes if len(cube) != channels]:
        raise DataError(f"A cube of {', '.join(sets)} has {wrong[0]} bands: that is the codec's channels.")
    return [read_image(path, channels) for path in files] + cubes


def _is_set(source: str) -> bool:
    return ":" in source and not Path(source).is_dir()


def _sounds(recipe: CodecRecipe) -> list[Tensor]:
    channels = recipe.codec.get("channels", 1)
    found = []
    for source in recipe.sources():
        if Path(source).is_dir():
            for path in _different(find_sounds(source)):
                sound = read_sound(path, recipe.sampling_rate or None)
                found.append(_channels(sound.samples, channels, str(path)))
        else:
            clips = load_clips(source).train  # never its test split
            for index in range(len(clips)):
                x = resample(clips.sound(index), clips.rate, recipe.sampling_rate or clips.rate)
                found.append(_channels(x, channels, f"{source}, {clips.names[index]}"))
    return [x for x in found if bool(x.any())]


def _mirrors(channels: int) -> list[Tensor]:
    """(C, 1) of signs: a scene of B-format, and the same seen in a mirror along each of its axes."""
    return [torch.tensor([1.0, *signs])[:, None] for signs in itertools.product((1.0, -1.0), repeat=channels - 1)]


def _channels(x: Tensor, channels: int, name: str) -> Tensor:
    if channels == len(x):
        return x
    if channels == 1:
        return x.mean(0, keepdim=True)
    if len(x) == 1 and channels == 2:
        return x.repeat(2, 1)  # what sits in the middle
    raise DataError(f"{name} has {len(x)} channel(s), the codec {channels}: train it on sounds that have as many.")


def _different(files: list[Path]) -> list[Path]:
    """Without those whose content has come before: the same signal twice could be in both parts."""
    found = {path.resolve(): None for path in files}
    contents = {hashlib.sha256(read_bytes(path)).digest(): path for path in reversed(found)}
    return list(reversed(contents.values()))


def _middle(x: Tensor, size: int) -> Tensor:
    for dim in range(1, x.dim()):
        excess = max(0, x.shape[dim] - size)
        x = x.narrow(dim, excess // 2, x.shape[dim] - excess)
    return x
