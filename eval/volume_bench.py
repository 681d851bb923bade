"""Time and memory in three dimensions: the compiled path against the torch reference, our attention decoder against
the papers' package.

    python -m cml.eval.volume_bench -o docs/results/volume_speed     # OUT.md, OUT.csv; two minutes of one core

Each measurement has a process of its own: after a warm-up on a small corner the best of some rounds, and the peak of
the memory beyond what goes in and comes out. `compiled` is what `encode` and `decode` do with a linear decoder,
`reference` is `analysis`, `quantize` and `synthesis`. The attention decoders have the same random weights, and their
outputs are compared.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from cml.eval.bench_machine import peak_of
from rich.console import Console

from cml.codecs.factory import create_codec
from cml.codecs.neural import WaveletCodec
from cml.codecs.published import load_published
from cml.errors import CmlError
from cml.files import write_atomic

CODECS = ("volume_f8c8:decoder=linear", "volume_f8c32", "video_f8c48")
SIZES = ((32, 128, 128), (64, 256, 256), (128, 512, 512))
_ATTENTION_SIZES = ((16, 64, 64), (32, 128, 128), (64, 128, 128))
_ROUNDS = 3
_DOC = __doc__ or ""
_CORNER = (16, 32, 32)


def measure(subject: str, path: str, size: tuple[int, ...], quick: bool = False) -> dict[str, float]:
    """Seconds and megabytes of one subject at one size, in this process.

    Args:
        subject: a codec's name, or `attention`.
        path: `compiled` or `reference`; of `attention`, `cml` or `livecodec`.
        size: of the signal's three axes.
        quick: one round.
    """
    torch.set_num_threads(1)
    rounds = 1 if quick else _ROUNDS
    if subject == "attention":
        decode, corner, z = _attention(path, size)
        decode(corner)
        return {f"decode_{key}": value for key, value in _timed(lambda: decode(z), rounds).items()}
    codec = create_codec(subject)
    assert isinstance(codec, WaveletCodec)
    x = _signal((codec.config.channels, *size))
    encode, decode = _compiled(codec) if path == "compiled" else _reference(codec)
    decode(encode(x[(slice(None), *(slice(n) for n in _CORNER))].contiguous()), _CORNER)
    symbols = encode(x)
    found = _timed(lambda: encode(x), rounds), _timed(lambda: decode(symbols, size), rounds)
    return {
        f"{way}_{key}": value
        for way, part in zip(("encode", "decode"), found, strict=True)
        for key, value in part.items()
    }


def _compiled(codec: WaveletCodec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return codec.encode, lambda latent, size: codec.decode(latent)


def _reference(codec: WaveletCodec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    @torch.no_grad()
    def encode(x: torch.Tensor) -> torch.Tensor:
        return codec.quantize(codec.analysis(x.float()[None] / 127.5 - 1))

    @torch.no_grad()
    def decode(symbols: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        return codec.synthesis(symbols.float() * codec.step, size)

    return encode, decode


def _timed(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    out, peak = peak_of(work)
    out = out.symbols if hasattr(out, "symbols") else out
    return {"seconds": min(seconds), "megabytes": max(0.0, peak - out.numel() * out.element_size() / 1e6)}


def _signal(shape: tuple[int, ...]) -> torch.Tensor:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=[shape[0], *(n // 4 for n in shape[1:])])
    smooth = torch.nn.functional.interpolate(torch.from_numpy(noise)[None].float(), shape[1:], mode="trilinear")[0]
    return (smooth * 40 + 128).clamp(0, 255).to(torch.uint8)


def _attention(path: str, size: tuple[int, ...]) -> tuple[Callable[[torch.Tensor], torch.Tensor], Any, Any]:
    """A decoder of f8c16 with random weights, ours or the package's, and latents of a corner and of a signal."""
    try:
        package = importlib.import_module("livecodec.codec")
    except ImportError as error:
        raise CmlError("The papers' decoder needs the packages of the extra interop: livecodec and tft.") from error
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "dim": 3, "input_channels": 1, "J": 3, "latent_dim": 16, "encoder_depth": 1, "encoder_kernel_size": 1,
        "decoder_depth": 2, "lightweight_encode": True,
    }  # fmt: skip
    model = package.AutoCodecND(**settings).eval()
    corner, z = (torch.randint(-9, 10, (1, 16, *(n // 8 for n in shape))).float() for shape in ((80,) * 3, size))
    if path == "livecodec":
        return torch.no_grad()(model.decode), corner, z
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pth"
        torch.save({"config": SimpleNamespace(**settings), "state_dict": model.state_dict()}, file)
        codec = load_published(f"livecodec:{file}")

    @torch.no_grad()
    def decode(z: torch.Tensor) -> torch.Tensor:
        return codec.synthesis(z, tuple(8 * n for n in z.shape[2:]))

    theirs, ours = torch.no_grad()(model.decode)(corner), decode(corner)
    if not torch.allclose(ours, theirs, atol=1e-3):
        raise CmlError("The two attention decoders differ, so that comparing their speed means nothing.")
    return decode, corner, z


def table(quick: bool = False, console: Console | None = None) -> pd.DataFrame:
    """A row a subject, path and size; what cannot be measured is left out and told."""
    console = console or Console(stderr=True)
    wanted = [(codec, path, size) for codec in CODECS for size in SIZES for path in ("compiled", "reference")]
    wanted += [("attention", path, size) for size in _ATTENTION_SIZES for path in ("cml", "livecodec")]
    if quick:
        wanted = [(*pair, _CORNER) for pair in {(codec, path): None for codec, path, _ in wanted}]
    rows = []
    for subject, path, size in wanted:
        request = json.dumps([subject, path, size, quick])
        command = [sys.executable, "-m", "cml.eval.volume_bench", "--measure", request]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1]
            console.print(f"{subject}, {path}, {size}: left out, {reason}", markup=False, soft_wrap=True)
            continue
        rows.append({"subject": subject, "path": path, "size": "x".join(map(str, size)), "voxels": np.prod(size)})
        rows[-1] |= json.loads(done.stdout.splitlines()[-1])
        console.print(f"{subject}, {path}, {rows[-1]['size']}", markup=False, highlight=False)
    return pd.DataFrame(rows)


def write(found: pd.DataFrame, out: Path) -> None:
    """OUT.csv and OUT.md."""
    lines = ["# Time and memory in three dimensions", "", _DOC.split("    python")[0].strip(), ""]
    lines += [
        "One thread, processor time. Mvoxel/s: positions, all channels together. MB: peak beyond input and output.", "",
        "| | | size | encode Mvoxel/s | decode Mvoxel/s | encode MB | decode MB |", "|---|---|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for row in found.to_dict("records"):
        cells = [_number(row["voxels"] / 1e6 / row.get(f"{way}_seconds", np.nan)) for way in ("encode", "decode")]
        cells += [_number(row.get(f"{way}_megabytes", np.nan)) for way in ("encode", "decode")]
        lines.append(f"| {row['subject']} | {row['path']} | {row['size']} | {' | '.join(cells)} |")
    lines += [
        "",
        "Each measurement" + _DOC.partition("\n\nEach measurement")[2].rstrip(),
        "",
        "```",
        f"python -m cml.eval.volume_bench -o {out}",
        "```",
        "",
    ]
    write_atomic(out.with_suffix(".csv"), found.to_csv(index=False))
    write_atomic(out.with_suffix(".md"), "\n".join(lines))


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def main() -> None:
    """The command of this module."""
    parser = argparse.ArgumentParser(prog="python -m cml.eval.volume_bench")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/volume_speed"))
    parser.add_argument("--quick", action="store_true", help="one small size, one round")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        subject, path, size, quick = json.loads(options.measure)
        print(json.dumps(measure(subject, path, tuple(size), quick)))
        return
    write(table(options.quick), options.output)


if __name__ == "__main__":
    main()
