"""`vq`: vector quantization, every patch of a picture replaced by the nearest of a few learned ones.

    x (C, H, W) 8-bit --patches of P x P--> index of the nearest code --lossless WebP--> bytes --> codes, cropped

The indices are sorted from dark to bright, and so a picture of their own. Lossless WebP takes 9 to 21 % fewer bytes for
them than the `ctx` back-end from 64 codes on, and about as many at 16 (eight pictures of the training set).
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml import hub
from cml.codecs.base import Codec, CodecSpec, fingerprint, to_uint8
from cml.codecs.bitstream import Container, container_id
from cml.codecs.conventional import check_option, load_picture, pillow_version, refuse_16_bits, save_picture
from cml.codecs.geometry import crop, grid_shape, pad_to_multiple
from cml.codecs.lossless import LOSSLESS_WEBP
from cml.errors import BitstreamError, CodecError, DataError
from cml.files import read_bytes, write_atomic

_BUNDLED = hub.BUNDLED / "vq"
_MAX_CODES = 2**16
_TRAINING_PATCHES = 2**16
_FLOATS = 2**20  # of distances and patches at a time


def patches_of(x: Tensor, patch: int) -> Tensor:
    """uint8 (C, H, W) to uint8 (positions, C * P * P), row by row; the last samples are repeated past the border."""
    x = pad_to_multiple(x, 2, patch)
    return x.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


def fit_codebook(images: Iterable[Tensor], patch: int, codes: int, seed: int = 0) -> Tensor:
    """Learn a codebook by k-means over patches drawn evenly from pictures.

    Args:
        images: uint8 (C, H, W), all of one C; 65,536 of their patches are used, or all where there are fewer.
        patch: P, samples a side.
        codes: K, 2 to 65,536.
        seed: of the draw, and of k-means++.

    Returns:
        uint8 (K, C, P, P), from dark to bright, so that the indices of neighbours are close.

    Raises:
        CodecError: a value out of range.
        DataError: fewer patches than codes.
    """
    from sklearn.cluster import KMeans

    check_option("vq", "patch", patch, 1, 64)
    check_option("vq", "codes", codes, 2, _MAX_CODES)
    pictures = list(images)
    share = _TRAINING_PATCHES // max(len(pictures), 1)
    draw = torch.Generator().manual_seed(seed)
    drawn = []
    for picture in pictures:
        patches = patches_of(picture, patch)
        drawn.append(patches[torch.randperm(len(patches), generator=draw)[:share]])
    if sum(map(len, drawn)) < codes:
        raise DataError(f"{codes} codes need as many patches or more, the pictures have {sum(map(len, drawn))}.")
    samples = torch.cat(drawn).float().numpy()
    # Past twenty passes the error falls by less than a percent.
    means = KMeans(codes, max_iter=20, random_state=seed).fit(samples)
    codebook = torch.from_numpy(means.cluster_centers_).round().clamp(0, 255).to(torch.uint8)
    order = codebook.float().mean(1).argsort(stable=True)
    return codebook[order].unflatten(1, (-1, patch, patch))


def save_codebook(file: str | Path, *codebooks: Tensor) -> None:
    """Write codebooks of one size for `vq:codebook=FILE`, one for grey, for RGB, or one for each."""
    from safetensors.torch import save

    write_atomic(file, save({str(codebook.shape[1]): codebook.contiguous() for codebook in codebooks}))


def load_codebook(file: str | Path) -> dict[int, Tensor]:
    """Codebooks of a file, channels -> uint8 (K, C, P, P).

    Raises:
        DataError: no such file, or it holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(read_bytes(file))
    except SafetensorError as error:
        raise DataError(f"{file} is no codebook of vq: {error}.") from error
    fits = all(
        book.dtype == torch.uint8
        and book.dim() == 4
        and str(book.shape[1]) == channels in ("1", "3")
        and book.shape[2] == book.shape[3] >= 1
        and 2 <= len(book) <= _MAX_CODES
        for channels, book in tensors.items()
    )
    if not fits or len({(len(book), book.shape[3]) for book in tensors.values()}) != 1:
        raise DataError(f"{file} is no codebook of vq; cml.codecs.vq.save_codebook writes one.")
    return {int(channels): book for channels, book in sorted(tensors.items())}


@cache
def _bundled_ids() -> dict[str, tuple[int, int]]:
    """codec_id -> patch and codes of the codebooks that come with cml."""
    found = {}
    for file in sorted(_BUNDLED.glob("*.safetensors")):
        books = load_codebook(file)
        book = next(iter(books.values()))
        found[_codec_id(books)] = book.shape[3], len(book)
    return found


def _codec_id(books: dict[int, Tensor]) -> str:
    shape = {"codec": "vq", "version": 1, "shapes": [list(book.shape) for book in books.values()]}
    return fingerprint(shape, *(book.numpy().tobytes() for book in books.values()))


class VectorQuantizer(Codec):
    """Patches by the nearest of K codes, their indices kept as lossless WebP.

    Args:
        patch: P, samples a side, 2, 4 or 8; 4 unless told.
        codes: K, 16, 64 or 256, for patch 4 also 1024, for patch 2 also 1024 and 4096; 256 unless told.
        codebook: a file of `save_codebook` in place of the codebooks that come with cml.

    Raises:
        CodecError: no codebook of that size comes with cml.
        DataError: the file is missing or holds no codebook.
    """

    def __init__(self, patch: int | None = None, codes: int | None = None, codebook: str | None = None):
        if codebook is None:
            patch, codes = patch or 4, codes or 256
            name, file = f"vq:patch={patch},codes={codes}", _BUNDLED / f"patch{patch}_codes{codes}.safetensors"
            known = sorted(_bundled_ids().values())
            if (patch, codes) not in known:
                sizes = "; ".join(f"patch={p},codes={k}" for p, k in known)
                raise CodecError(f"No codebook {name} comes with cml: take {sizes}, or a file (vq:codebook=FILE).")
        elif patch is not None or codes is not None:
            raise CodecError("A codebook says its patch and codes itself; give vq either these or the file.")
        else:
            name, file = f"vq:codebook={codebook}", codebook
        self._books = load_codebook(file)
        book = next(iter(self._books.values()))
        self._codes, self._patch = len(book), book.shape[3]
        self._spec = CodecSpec(
            name=name,
            ndim=2,
            channels=tuple(self._books),
            codec_id=_codec_id(self._books),
            settings={"patch": self._patch, "codes": self._codes, "container": LOSSLESS_WEBP, **pillow_version("webp")},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        size = _bundled_ids().get(container_id(blob) or "")
        return cls(*size) if size else None

    def _nearest(self, x: Tensor) -> Tensor:
        """uint8 (C, H, W) to the indices of the nearest codes, (*grid)."""
        book = self._books[len(x)].flatten(1).float()
        bias = book.square().sum(1) / -2
        patches = patches_of(x, self._patch)
        chunks = patches.split(max(1, _FLOATS // sum(book.shape)))
        # |p - c|^2 is least where p c - |c|^2 / 2 is greatest.
        nearest = torch.cat([torch.addmm(bias, chunk.float(), book.T).argmax(1) for chunk in chunks])
        return nearest.view(grid_shape(tuple(x.shape[1:]), self._patch))

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        indices = self._nearest(to_uint8(x)).numpy()
        # Low and high byte as red and green.
        planes = np.stack((indices & 255, indices >> 8, np.zeros_like(indices)), 2).astype(np.uint8)
        payload = save_picture(Image.fromarray(planes), self.spec.name, LOSSLESS_WEBP)
        return Container(self._spec.codec_id, 0.0, tuple(x.shape), 0, bit_depth, 0, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        shape = container.shape
        if container.codec_id != self._spec.codec_id or len(shape) != 3 or shape[0] not in self._books:
            raise BitstreamError(f"The container was written by codec {container.codec_id}, not by {self.spec.name}.")
        planes = torch.from_numpy(np.array(load_picture(container.payload, "WEBP").convert("RGB"))).long()
        indices = planes[..., 0] + 256 * planes[..., 1]
        if indices.shape != grid_shape(shape[1:], self._patch) or indices.max() >= self._codes:
            raise BitstreamError(f"The container does not hold the indices of a picture for {self.spec.name}.")
        tiles = self._books[shape[0]][indices].permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
        return crop(tiles, shape[1:]).float() / 127.5 - 1
