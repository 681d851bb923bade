"""The weights of the fast path: encoder and decoder for packets as phases, without the gains of the filters."""

from dataclasses import dataclass

import numpy as np
import torch

from cml.codecs import wavelet
from cml.codecs.architecture import WaveletConfig
from cml.codecs.fast_kernel import BLOCK

# Integer samples mean x * scale + offset.
_UNITS = {"uint8": (1 / 127.5, -1.0), "uint16": (1 / 32767.5, -1.0), "float32": (1.0, 0.0)}


@dataclass(frozen=True)
class Product:
    """A matrix product in the order of the kernels, BLOCK outputs at a time.

    weights: (..., blocks, k, BLOCK); bias: (..., blocks, BLOCK).
    """

    weights: np.ndarray
    bias: np.ndarray


def _phases(config: WaveletConfig) -> tuple[np.ndarray, np.ndarray]:
    """For each phase (F of each axis, in the order of the axes): its packet, and the gain that its packet lacks."""
    places = np.indices(config.cell)
    packet, gain = np.zeros(places.shape[1:], int), np.ones(places.shape[1:])
    for level, axes in enumerate(wavelet.rounds(config.levels, config.ndim)):
        packet *= 2 ** len(axes)
        for band, axis in enumerate(axes):
            high = places[axis] >> level & 1
            packet += high << band
            gain *= np.where(high, -1 / wavelet.GAIN, wavelet.GAIN)
    return packet, gain


def _by_phase(matrix: np.ndarray, config: WaveletConfig, inverse: bool) -> np.ndarray:
    """(n, packets) as (n, C, F of columns, F of rows), of slices in front of columns where there are any."""
    packet, gain = _phases(config)
    rows = matrix.reshape(len(matrix), config.channels, -1)[:, :, packet]
    rows = rows / gain if inverse else rows * gain
    return rows if config.ndim == 1 else np.swapaxes(rows, -1, -2)


def _blocks(rows: np.ndarray) -> np.ndarray:
    """(..., n, k) as (..., blocks, k, BLOCK), with zeros where n is no multiple."""
    *outer, n, k = rows.shape
    padded = np.zeros((*outer, -(-n // BLOCK) * BLOCK, k))
    padded[..., :n, :] = rows
    blocks = padded.reshape(*outer, -1, BLOCK, k).swapaxes(-1, -2)
    return np.ascontiguousarray(blocks, np.float32)


def analysis_product(
    config: WaveletConfig, weight: np.ndarray, bias: np.ndarray, channels: int, kind: str, unit: float
) -> Product:
    """The linear encoder for samples of one kind.

    Args:
        config: of the codec.
        weight, bias: (c, packets) and (c,), of the encoder.
        channels: how many latents are wanted, the first.
        kind: of the samples: uint8, uint16 or float32.
        unit: what the latents are divided by.
    """
    scale, offset = _UNITS[kind]
    weight, bias = weight[:channels].astype(np.float64) / unit, bias[:channels].astype(np.float64) / unit
    ones = torch.ones((1, config.channels, *config.cell), dtype=torch.float64)
    constant = wavelet.analysis(ones, config.levels).flatten().numpy()
    rows = _by_phase(weight, config, inverse=False).reshape(channels, -1)
    return Product(_blocks(scale * rows), _blocks((bias + offset * weight @ constant)[:, None])[:, 0])


def synthesis_product(
    config: WaveletConfig, weight: np.ndarray, bias: np.ndarray, channels: int, unit: float
) -> Product:
    """The linear decoder, for symbols of the first `channels` latents, which are worth `unit` each.

    Returns:
        weights of sound and pictures (F of rows, blocks over channel and column, c, BLOCK), of volumes
        (C, F of slices, blocks over column and row, c, BLOCK), and the bias alike without c.
    """
    rows = _by_phase(weight[:, :channels].astype(np.float64).T * unit, config, inverse=True)
    offset = _by_phase(bias.astype(np.float64)[None], config, inverse=True)
    both = np.moveaxis(np.concatenate((rows, offset)), 0, -1)  # (C, slices, columns, rows, c + 1)
    if config.ndim == 1:
        both = both.reshape(1, -1, channels + 1)
    elif config.ndim == 2:
        both = np.moveaxis(both, 2, 0).reshape(config.cell[0], -1, channels + 1)
    else:
        both = both.reshape(config.channels, config.cell[0], -1, channels + 1)
    blocks = _blocks(both)
    return Product(np.ascontiguousarray(blocks[..., :-1, :]), np.ascontiguousarray(blocks[..., -1, :]))
