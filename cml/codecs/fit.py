"""The closed form: a linear wavelet codec without a gradient, from the covariance of the wavelet packets.

The encoder is the Karhunen-Loeve transform (the eigenvectors of the packets' covariance, by falling variance), the
decoder its transpose; channels are ordered by energy, and one uniform step leaves bits where the energy is.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from cml.codecs import wavelet
from cml.codecs.architecture import WaveletConfig
from cml.codecs.base import CodecSpec, admit_signal, to_unit
from cml.codecs.level import measure, remove
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.neural import WaveletCodec
from cml.errors import CodecError


@torch.no_grad()
def fit_codec(
    signals: Iterable[Tensor],
    *,
    name: str,
    ndim: int,
    channels: int,
    levels: int | tuple[int, ...],
    latent_channels: int,
    step: float = 0.5,
    boundary: str = "symmetric",
    level: str = "absolute",
    provenance: dict | None = None,
) -> WaveletCodec:
    """Fit a codec to signals, each seen once.

    Args:
        signals: (C, *S), uint8, uint16 or float in [-1, 1], of any sizes.
        name: what to call it.
        ndim, channels, levels, latent_channels: D, C, J (or one an axis) and c.
        step: default quantization step.
        boundary: of the wavelet transform.
        level: `absolute`, or `peak` for a codec that brings each signal to a peak of 1 around its means.
        provenance: what the config records of the data and the command.

    Raises:
        CodecError: a signal does not fit, or there are too few samples for the covariance.
    """
    config = WaveletConfig(
        ndim=ndim,
        channels=channels,
        levels=levels,
        latent_channels=latent_channels,
        latent_mean=(0.0,) * latent_channels,
        latent_std=(1.0,) * latent_channels,
        step=step,
        boundary=boundary,
        level=level,
        provenance=provenance,
    )
    packet_channels = config.packet_channels
    spec = CodecSpec(name=name, ndim=ndim, channels=(channels,))
    total = torch.zeros(packet_channels, dtype=torch.float64)
    products = torch.zeros(packet_channels, packet_channels, dtype=torch.float64)
    count = 0
    for signal in signals:
        x = to_unit(admit_signal(signal, spec, bounded=level == "absolute")[0])
        if level == "peak":
            x = remove(x, measure(x))
        packets = wavelet.analysis(x[None], levels, boundary)[0].flatten(1).double()
        total += packets.sum(1)
        products += packets @ packets.T
        count += packets.shape[1]
    if count < 2 * packet_channels:
        raise CodecError(
            f"The signals give {count} patches, too few for {packet_channels} packet channels; add data or take fewer "
            "levels."
        )
    # Without their offsets signals have no mean, so that silence stays silent.
    mean = total / count if level == "absolute" else torch.zeros_like(total)
    variance, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    basis = vectors.flip(1)[:, :latent_channels].T
    # An eigenvector's sign is arbitrary; with the largest entry positive the same fit gives the same codec.
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    std = variance.flip(0)[:latent_channels].clamp(min=0).sqrt()
    config = replace(config, latent_std=tuple(float(f"{value:.6g}") or 1.0 for value in std.tolist()))
    codec = WaveletCodec(config, name)
    encoder, decoder = codec.encoder, codec.decoder
    assert isinstance(encoder, LinearEncoder) and isinstance(decoder, LinearDecoder)
    encoder.weight.copy_(basis)
    encoder.bias.copy_(-basis @ mean)
    decoder.weight.copy_(basis.T)
    decoder.bias.copy_(mean)
    return codec
