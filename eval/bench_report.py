"""The report of `bench`: speeds at one size with their ratios, growth with the size, memory, and what bounds it."""

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cml.eval.bench_machine import Machine
from cml.eval.bench_rivals import ANCHOR, RIVALS, WALLOC, WEBP
from cml.eval.rd_report import as_markdown, as_rich
from rich.console import Console

from cml.codecs.cost import config_of, encode_costs, fused_bytes
from cml.codecs.factory import create_codec
from cml.files import write_atomic

Size = tuple[int, int]
Rounds = dict[str, dict[int, float]]
_AGAINST = {"encode": (ANCHOR, WEBP, WALLOC), "decode": (ANCHOR, WALLOC)}
_QUARTERS = (0.25, 0.5, 0.75)
_GROWTH_FROM = 0.25e6  # pixels


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    data: str | None
    codecs: Sequence[str] | None
    out: str
    sizes: Sequence[str] | None
    rounds: int | None
    threads: tuple[int, ...]
    memory: bool
    quick: bool

    @property
    def command(self) -> str:
        """The command line that makes this benchmark again."""
        parts = ["cml", "bench"] + ([self.data] if self.data is not None else [])
        for codec in self.codecs or ():
            parts += ["-c", codec]
        parts += ["--sizes", " ".join(self.sizes)] if self.sizes else []
        parts += [] if self.rounds is None else ["--rounds", str(self.rounds)]
        for count in self.threads if self.threads != (1,) else ():
            parts += ["--threads", str(count)]
        parts += (["--quick"] if self.quick else []) + ([] if self.memory else ["--no-memory"])
        return shlex.join([*parts, "-o", self.out])


def timings(table: pd.DataFrame, quantity: str, size: Size, threads: int) -> Rounds:
    """One quantity at one size: codec -> round -> value, for the rounds that a codec took part in."""
    chosen = (
        (table["quantity"] == quantity)
        & (table["height"] == size[0])
        & (table["width"] == size[1])
        & (table["threads"] == threads)
    )
    found: dict[str, dict[int, float]] = {str(name): {} for name in dict.fromkeys(table["codec"])}
    for row in table.loc[chosen].to_dict("records"):
        found[row["codec"]][row["round"]] = row["value"]
    return {name: rounds for name, rounds in found.items() if rounds}


def medians(table: pd.DataFrame, quantity: str, size: Size, threads: int) -> dict[str, float]:
    """The median over the rounds of each codec."""
    found = timings(table, quantity, size, threads)
    return {name: statistics.median(rounds.values()) for name, rounds in found.items()}


def speeds(table: pd.DataFrame, quantity: str, size: Size, threads: int) -> dict[str, float]:
    """Megapixels a second of each codec, the median of its rounds."""
    seconds = medians(table, quantity, size, threads)
    return {name: math.prod(size) / 1e6 / value for name, value in seconds.items()}


def ratios(seconds: Mapping[int, float], others: Mapping[int, float]) -> tuple[float, float, float] | None:
    """Quartiles of how many times less the seconds are than the others', round by round; None without common rounds."""
    values = [others[number] / seconds[number] for number in seconds if number in others]
    if not values:
        return None
    low, middle, high = np.quantile(values, _QUARTERS)
    return float(low), float(middle), float(high)


def at_one_size(table: pd.DataFrame, way: str, size: Size, threads: int) -> pd.DataFrame:
    """Encoding or decoding at one size: speed, stages, rate and quality, ratios with their quartiles."""
    seconds = timings(table, way, size, threads)
    fast = speeds(table, way, size, threads)
    volume, quality = medians(table, "bytes", size, threads), medians(table, "psnr", size, threads)
    rows = []
    for codec, rounds in seconds.items():
        row = {"codec": codec, "MP/s": _digits(fast[codec]), "rounds": str(len(rounds))}
        row["stages, ms"] = _stages(table, way, size, threads, codec)
        if way == "encode":
            row["bpp"] = f"{8 * volume[codec] / math.prod(size):.3f}" if codec in volume else ""
            row["PSNR"] = f"{quality[codec]:.2f}" if codec in quality else ""
        for other in _AGAINST[way]:
            if other in seconds:
                row[f"against {other}"] = "1" if codec == other else _spread(ratios(rounds, seconds[other]))
        rows.append(row)
    return pd.DataFrame(rows)


def _stages(table: pd.DataFrame, way: str, size: Size, threads: int, codec: str) -> str:
    parts = []
    for quantity in dict.fromkeys(map(str, table["quantity"])):
        if quantity.startswith(f"{way}."):
            seconds = medians(table, quantity, size, threads)
            parts += [f"{quantity.partition('.')[2]} {1e3 * seconds[codec]:.3g}"] if codec in seconds else []
    return ", ".join(parts)


def _spread(quartiles: tuple[float, float, float] | None) -> str:
    if quartiles is None:
        return ""
    low, middle, high = map(_digits, quartiles)
    return f"{middle} [{low}, {high}]"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _megapixels(size: Size) -> str:
    number = math.prod(size) / 1e6
    return f"{number:.0f} MP" if number >= 10 else f"{number:.2g} MP"


def sizes_of(table: pd.DataFrame) -> list[Size]:
    """The sizes measured, from small to large."""
    pairs = zip(table["height"].astype(int), table["width"].astype(int), strict=True)
    return sorted(set(pairs), key=math.prod)


def by_size(table: pd.DataFrame, way: str, threads: int) -> pd.DataFrame:
    """Megapixels a second, a column a size; the last says how far the times a pixel lie apart from 0.25 MP on."""
    columns = {size: speeds(table, way, size, threads) for size in sizes_of(table)}
    rows = []
    for codec in dict.fromkeys(map(str, table["codec"])):
        row = {"codec": codec}
        for size, values in columns.items():
            row[_megapixels(size)] = _digits(values[codec]) if codec in values else ""
        large = [v[codec] for size, v in columns.items() if math.prod(size) >= _GROWTH_FROM and codec in v]
        row["slowest against fastest pixel"] = f"{max(large) / min(large):.2f}" if len(large) > 1 else ""
        rows.append(row)
    return pd.DataFrame(rows)


def by_threads(table: pd.DataFrame, size: Size, threads: Sequence[int]) -> pd.DataFrame:
    """Ours with more threads: megapixels a second, and how many times faster, round by round, with quartiles."""
    rows = []
    for way in ("encode", "decode"):
        one = timings(table, way, size, threads[0])
        for count in threads[1:]:
            fast = speeds(table, way, size, count)
            for codec, rounds in timings(table, way, size, count).items():
                speed = {"codec": f"{way} {codec}", "threads": str(count), "MP/s": _digits(fast[codec])}
                rows.append(speed | {f"against {threads[0]}": _spread(ratios(rounds, one.get(codec, {})))})
    return pd.DataFrame(rows)


def memory(table: pd.DataFrame, threads: int) -> pd.DataFrame:
    """Megabytes beyond input and output, a column a size and way."""
    columns: dict[str, dict[str, float]] = {}
    for size in sizes_of(table):
        for way in ("encode", "decode"):
            if found := medians(table, f"{way}_memory", size, threads):
                columns[f"{way} {_megapixels(size)}"] = found
    names = [str(name) for name in dict.fromkeys(table["codec"]) if any(name in found for found in columns.values())]
    cells = {
        label: [f"{found[name]:.0f}" if name in found else "" for name in names] for label, found in columns.items()
    }
    return pd.DataFrame({"codec": names} | cells if cells else {})


def bounds(table: pd.DataFrame, machine: Machine, size: Size, threads: int) -> pd.DataFrame:
    """Our encoders, without entropy coder: what they do a pixel, and how fast memory and arithmetic would let them.

    `one pass` moves what no encoder can save, samples in and symbols out; `each alone` is every stage by itself,
    through memory. The arithmetic limit is a matrix product's, and of the multiply-accumulates alone.
    """
    fast = speeds(table, "encode.transform", size, threads)
    rows = []
    for codec in (name for name in fast if name not in RIVALS):
        config = config_of(create_codec(codec))
        if config is None:
            continue
        stages = encode_costs(config)[:-1]
        macs, additions, alone = (sum(getattr(s, key) for s in stages) for key in ("macs", "additions", "bytes"))
        limits = {
            "memory, one pass": machine.bandwidth / fused_bytes(config) / 1e6,
            "memory, each alone": machine.bandwidth / alone / 1e6,
            "arithmetic": machine.arithmetic / macs / 1e6,
        }
        limit = min(limits["memory, one pass"], limits["arithmetic"])
        rows.append(
            {
                "codec": codec, "MACs": f"{macs:.0f}", "other operations": f"{additions:.0f}",
                "bytes, one pass": f"{fused_bytes(config):.2f}", "bytes, each alone": f"{alone:.1f}",
                "measured MP/s": _digits(fast[codec]),
                **{f"{name}, MP/s": _digits(value) for name, value in limits.items()},
                "of the lower limit": f"{fast[codec] / limit:.0%}",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def print_tables(table: pd.DataFrame, console: Console) -> None:
    """Encoding and decoding at the reference size, in the terminal."""
    size, threads = table.attrs["reference"], table.attrs["request"].threads[0]
    for way in ("encode", "decode"):
        view = at_one_size(table, way, size, threads)
        if console.width < 150:
            # Medians without their quartiles.
            view = view.loc[:, [name for name in view if name in ("codec", "MP/s") or name.startswith("against")]]
            view = view.map(lambda cell: cell.partition(" [")[0])
        view.columns = [name.replace("against ", "x ").partition(":")[0] for name in view.columns]
        title = f"{way}, {size[0]}x{size[1]}, {_threads(threads)}"
        console.print(as_rich(view, title))


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def write(table: pd.DataFrame, request: Request, machine: Machine) -> None:
    """Write OUT.csv, OUT.md and OUT.png."""
    from cml.eval import bench_figure

    write_atomic(f"{request.out}.csv", table.to_csv(index=False, float_format="%.6g"))
    bench_figure.draw(table, table.attrs["reference"], request.threads[0], Path(f"{request.out}.png"))
    write_atomic(f"{request.out}.md", markdown(table, request, machine))


def markdown(table: pd.DataFrame, request: Request, machine: Machine) -> str:
    """The report."""
    size, threads = table.attrs["reference"], request.threads[0]
    source = "synthetic pictures (1/f noise)" if request.data is None else f"photos of {Path(request.data).name}"
    lines = [
        f"# Speed, {_threads(threads)}",
        "",
        f"{machine.cpu}, {machine.cores} cores; a copy past the caches reads and writes {machine.bandwidth / 1e9:.1f} "
        f"GB/s, a float32 matrix product does {machine.arithmetic / 1e9:.1f} GMAC/s, with {_threads(threads)}. RGB "
        f"pictures of 8 bits, from {source}, cut and mirrored to each size. Each round times every codec, in an order "
        "that rotates (short work for 20 ms to warm up and as long again, whose median counts); speeds are medians of "
        "the rounds, ratios are taken round by round and are medians with [quartiles]: above 1 is faster. Absolute "
        "speeds depend on what else the machine does.",
        "",
        "Ours: uint8 tensor to container, container to float32 tensor. The others work on what their library has, a "
        f"Pillow picture to a file in memory and back, all of it decoded. `{ANCHOR}` is libjpeg-turbo with its default "
        "Huffman tables (`optimize=False`) and chroma 4:2:0, which is its fastest. `walloc`, `livecodec` and "
        "`compressai` have random weights, which cost the same time but make bytes and PSNR meaningless; the encoder "
        "of `walloc` is our matrix, scaled so that its symbols are about those of `rgb_f8c12`, and its bytes count.",
        "",
        "Every codec is at the operating point that its name says, not all at one quality: see bpp and PSNR. A coder "
        "of few symbols has less to do: a finer step slows our entropy coders, a lower quality speeds up JPEG.",
        "",
        f"![Throughput]({Path(request.out).name}.png)",
        "",
    ]
    for way in ("encode", "decode"):
        view = at_one_size(table, way, size, threads)
        lines += [f"## {way.capitalize()}, {size[0]}x{size[1]}, {_threads(threads)}", "", as_markdown(view), ""]
    threaded = by_threads(table, size, request.threads)
    if len(threaded):
        lines += [f"## More threads, {size[0]}x{size[1]}", "", as_markdown(threaded), ""]
    bounded = bounds(table, machine, size, threads)
    if len(bounded):
        lines += ["## What bounds the encoder", "", _BOUNDS, "", as_markdown(bounded), ""]
    for way in ("encode", "decode"):
        title = f"## {way.capitalize()}, megapixels a second by size"
        lines += [title, "", as_markdown(by_size(table, way, threads)), ""]
    used = memory(table, threads)
    if len(used):
        lines += ["## Peak memory, MB beyond input and output", "", _MEMORY, "", as_markdown(used), ""]
    if table.attrs["notes"]:
        lines += ["## Left out", "", *(f"- {note}" for note in table.attrs["notes"]), ""]
    lines += ["## Made by", "", "```", request.command, "```", "", f"`{json.dumps(machine.versions)}`", ""]
    return "\n".join(lines)


_BOUNDS = (
    "Transform, projection and quantizer; multiply-accumulates, other operations and bytes a pixel are computed from "
    "the config (`cml info`). *One pass* moves samples in and symbols out, which no encoder can save; *each alone* is "
    "what the same stages move through memory one after another. The arithmetic limit is the pace of a matrix product, "
    "for which processors are made, and counts multiply-accumulates alone, as additions may run beside them. Code that "
    "keeps a small product in registers may pass it."
)
_MEMORY = (
    "Each in a process of its own, after a warm-up on a small picture: the highest resident memory less that before "
    "the call, less the bytes or samples that come out. At the reference size, and at the largest that was measured."
)
