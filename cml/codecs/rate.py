"""Rate control by search: the operating point of a codec whose bytes come nearest to a target."""

from torch import Tensor

from cml.codecs.base import Codec
from cml.codecs.factory import create_codec, parse_operating_point
from cml.errors import CodecError

# How each codec's rate is steered: option, values from the lowest rate to the highest.
_WHOLE = {
    "jpeg": ("quality", 1, 100),
    "webp": ("quality", 0, 100),
    "avif": ("quality", 0, 100),
    "resize": ("factor", 32, 1),
}
_REAL = {"jpeg2000": ("rate", 2000.0, 1.0)}
_STEP = ("step", 16.0, 0.01)


def match_rate(name: str, x: Tensor, bpp: float) -> tuple[Codec, bytes]:
    """The operating point of a codec whose container for `x` has the rate nearest to a target, and that container.

    Args:
        name: a codec, with options or without; the option that steers its rate is searched.
        x: the signal, (C, *spatial).
        bpp: target, 8 x the bytes of the whole container / samples of one channel.
    """
    base, fixed = parse_operating_point(name)
    if base == "identity":
        raise CodecError("identity has one rate only; choose a lossy codec.")
    whole = base in _WHOLE
    option, low, high = _WHOLE.get(base) or _REAL.get(base) or _STEP

    def attempt(value: float) -> tuple[float, Codec, bytes]:
        codec = create_codec(base, **(fixed | {option: value}))
        blob = codec.compress(x)
        return 8 * len(blob) / x[0].numel() - bpp, codec, blob

    tried = []
    for _ in range(24):
        middle = round((low + high) / 2) if whole else float(f"{(low * high) ** 0.5:.3g}")
        tried.append(attempt(middle))
        if tried[-1][0] > 0:
            high = middle
        else:
            low = middle
        if abs(high - low) <= 1 if whole else max(high, low) / min(high, low) < 1.02:
            break
    if whole:
        tried += [attempt(low), attempt(high)]
    _, codec, blob = min(tried, key=lambda item: abs(item[0]))
    return codec, blob
