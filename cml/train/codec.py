"""Training a codec from its closed form: the encoder, the decoder or both, for a range of quantization steps."""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cml.codecs.architecture import WaveletConfig
from cml.codecs.factory import create_codec
from cml.codecs.fit import fit_codec
from cml.codecs.light import LightDecoder
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.neural import WaveletCodec
from cml.codecs.rdo import bits, rdo_round
from cml.data.crops import Crops
from cml.errors import CmlError
from cml.files import write_atomic
from cml.train import processes
from cml.train.checkpoint import CHECKPOINT, resume, save_checkpoint
from cml.train.loop import warmup_cosine
from cml.train.recipes import CodecRecipe, dump_recipe

REPORT = 20
_FREE = ("step", "rdo", "entropy")  # what the weights of a codec do not depend on


@dataclass(frozen=True)
class Progress:
    """Where a training stands: means since the last report.

    Attributes:
        iteration: how many are done.
        loss: log10 MSE + lambda log2 rate.
        bpp: estimated rate, bits a position of the signal.
        psnr: dB, from the mean squared error of all crops since the last report, whatever their step.
        rate: crops a second.
    """

    iteration: int
    loss: float
    bpp: float
    psnr: float
    rate: float


def starting_codec(recipe: CodecRecipe, signals: Sequence[Tensor]) -> WaveletCodec:
    """The codec that training begins with: the closed form of the signals where the architecture has a place for it.

    Or that of `recipe.start`, as it is.
    """
    if recipe.start:
        return _given_codec(recipe, len(signals[0]), signals[0].dim() - 1)
    chosen = {"ndim": signals[0].dim() - 1, "channels": len(signals[0]), "step": math.prod(recipe.steps) ** 0.5}
    chosen |= dict(recipe.codec)
    if chosen.get("decoder") == "light":
        # Equal cost a position of the signal: half the resolution of the latent grid affords twice the width.
        chosen = {"decoder_width": 96 * 2 ** max(0, _most(chosen["levels"]) - 3), "decoder_depth": 4} | chosen
    c = chosen["latent_channels"]
    unknown = {"latent_mean": (0.0,) * c, "latent_std": (1.0,) * c}
    torch.manual_seed(recipe.seed)
    try:
        config = WaveletConfig(**unknown | chosen)
    except (TypeError, ValueError) as error:
        raise CmlError(f"The recipe's codec is wrong: {error}.") from error
    closed = fit_codec(
        signals, name="start", ndim=config.ndim, channels=config.channels, levels=config.levels,
        latent_channels=c, boundary=config.boundary, level=config.level,
    )  # fmt: skip
    std = closed.config.latent_std
    codec = WaveletCodec(replace(config, latent_std=std), recipe.name)
    encoder, decoder = closed.encoder, closed.decoder
    assert isinstance(encoder, LinearEncoder) and isinstance(decoder, LinearDecoder)
    if not recipe.closed_form:
        for matrix in (encoder.weight, decoder.weight):
            nn.init.xavier_uniform_(matrix)
    # A compander's range holds the strongest channel; the encoder takes the gain and the decoder gives it back.
    gain = _gain(codec)
    with torch.no_grad():
        if isinstance(codec.encoder, LinearEncoder):
            codec.encoder.weight.copy_(encoder.weight * gain)
            codec.encoder.bias.copy_(encoder.bias * gain)
        inner = codec.decoder.linear if isinstance(codec.decoder, LightDecoder) else codec.decoder
        if isinstance(inner, LinearDecoder):
            inner.weight.copy_(decoder.weight / gain)
            inner.bias.copy_(decoder.bias)
        if isinstance(codec.decoder, LightDecoder):
            codec.decoder.variance.copy_((torch.tensor(std) * gain).square().view_as(codec.decoder.variance))
            codec.decoder.limits.copy_(torch.tensor(recipe.steps))
    return codec


def _most(levels: int | Sequence[int]) -> int:
    return levels if isinstance(levels, int) else max(levels)


def _crop(recipe: CodecRecipe, axes: int) -> tuple[int, ...]:
    return (recipe.depth or recipe.crop, *[recipe.crop] * (axes - 1)) if axes == 3 else (recipe.crop,) * axes


def _given_codec(recipe: CodecRecipe, channels: int, ndim: int) -> WaveletCodec:
    given = create_codec(recipe.start)
    if not isinstance(given, WaveletCodec):
        raise CmlError(f"{recipe.start} is no wavelet codec, which is what a recipe trains.")
    if (given.config.ndim, given.config.channels) != (ndim, channels):
        raise CmlError(f"{recipe.start} takes signals of other axes or channels than the recipe's data.")
    if changed := sorted(
        key for key, value in recipe.codec.items() if key not in _FREE and value != getattr(given.config, key, None)
    ):
        raise CmlError(f"The recipe's {changed[0]} is not that of {recipe.start}, with which it starts: leave it out.")
    config = replace(given.config, **{key: value for key, value in recipe.codec.items() if key in _FREE})
    codec = WaveletCodec(config, recipe.name)
    codec.load_state_dict(given.state_dict())
    if isinstance(codec.decoder, LightDecoder):
        codec.decoder.limits.copy_(torch.tensor(recipe.steps))
    return codec


class CodecLoss(nn.Module):
    """crops -> analysis -> quantized latents -> synthesis -> log10 MSE + lambda log2 rate.

    The distortion is the mean over crops of log10(MSE_i + mean MSE): half way between the mean of the decibels, which
    a report quotes, and the decibels of the mean, which busy crops decide. With the rate in the logarithm too, one
    lambda fits all steps: over the usual range a codec gains about 4.6 dB for each e-fold of rate.

    All of it is that of the global batch, whatever the number of processes that share it equally: rates, mean errors
    and noise, which is drawn for the whole batch from torch's generator, seeded alike everywhere.
    """

    def __init__(self, codec: WaveletCodec, recipe: CodecRecipe):
        super().__init__()
        self.codec, self.recipe = codec, recipe

    def forward(self, x: Tensor, step: float, frozen: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, *S) to (loss, estimated bits a position, mean squared error of the [-1, 1] signal).

        The loss of several processes is the mean of what each returns; the others are the same everywhere.
        """
        codec, recipe = self.codec, self.recipe
        with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
            z = codec.analysis(x)
        v = z / step
        hard = frozen or recipe.rounding == "hard"
        if hard:
            rounded = rdo_round(v, codec.rdo)
        else:
            rounded = v + processes.own(v.new_empty(len(v) * processes.count(), *v.shape[1:]).uniform_()) - 0.5
        x_hat = codec.synthesis((v + (rounded - v).detach()) * step, tuple(x.shape[2:]), z.new_full((len(z),), step))
        error = (x_hat - x).square().flatten(1).mean(1)
        mean_error = processes.mean(error.detach().mean())
        bpp = processes.mean(bits(v).sum() / x[:, 0].numel())
        rate = processes.gather(v).std().log2() if recipe.rate == "std" else bpp.clamp(min=1e-6).log2()
        loss = (error + mean_error).log10().mean() + recipe.rate_weight * rate
        return loss, bpp.detach(), mean_error


def train_codec(
    recipe: CodecRecipe,
    signals: Sequence[Tensor],
    out: str | Path,
    on_start: Callable[[WaveletCodec], None] = lambda codec: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_validation: Callable[[int, WaveletCodec], None] = lambda iteration, codec: None,
) -> WaveletCodec:
    """Train a codec and leave it in a folder that is usable by its path from the first checkpoint on.

    Runs under Hugging Face Accelerate: one process or many, on what devices it finds. Crops, quantization steps, noise
    and loss do not depend on the number of processes, and the results only as floats round. Interrupted and called
    again, on as many processes or others, it goes on from the last checkpoint with the same crops that would have come.

    Args:
        recipe: what to do.
        signals: uint8 or float (C, *S), the training part of the data.
        out: folder of config.json, model.safetensors, the model card, the recipe and the checkpoint.
        on_start: called once with the codec that training begins with.
        on_progress: called every 20 iterations, on the main process.
        on_validation: called every `recipe.every` iterations with the averaged codec, on the main process.

    Raises:
        CmlError: the folder holds a run of another recipe or of other data, or the loss is no longer a number.
    """
    from accelerate import DistributedDataParallelKwargs
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    out = Path(out)
    # The encoder gets no gradient once it is frozen.
    accelerator = processes.accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    if recipe.batch % accelerator.num_processes:
        raise CmlError(f"batch, {recipe.batch}, must be a multiple of the {accelerator.num_processes} processes.")
    codec = starting_codec(recipe, signals)
    on_start(codec)
    codec.train()
    optimizer = torch.optim.AdamW(_groups(codec, recipe), weight_decay=0.0)
    model, optimizer = accelerator.prepare(CodecLoss(codec, recipe), optimizer)
    average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    identity = _identity(recipe, signals)
    parts = {"codec": codec, "average": average, "optimizer": optimizer}
    start = resume(out / CHECKPOINT, identity, parts)
    crops = Crops(signals, _crop(recipe, signals[0].dim() - 1), recipe.scales, recipe.seed)
    share = recipe.batch // accelerator.num_processes
    mine = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    meter = _Meter(recipe.batch)

    def keep(finished: WaveletCodec, done: int) -> None:
        finished.save(out, card(recipe, done, str(accelerator.device)))
        write_atomic(out / "recipe.yaml", dump_recipe(recipe))

    finished = None
    iterations = range(start + 1, recipe.iterations + 1)
    for done, batch in zip(iterations, _ahead(crops, iterations, mine), strict=True):
        for group in optimizer.param_groups:
            warm = min(recipe.warmup, recipe.iterations)
            group["lr"] = group["peak"] * warmup_cosine(done - 1, warm, recipe.iterations)
        x = batch.to(accelerator.device)
        torch.manual_seed(recipe.seed + done)  # of the noise: the same after an interruption, and on every process
        loss, bpp, error = model(x, _draw_step(done, recipe), done > recipe.freeze_after * recipe.iterations)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        average.update_parameters(codec)
        if not meter.add(processes.mean(loss.detach()), bpp, error):
            raise CmlError(f"The loss is no longer a number at iteration {done}: take a smaller lr.")
        last = done == recipe.iterations
        if (done % REPORT == 0 or last) and accelerator.is_main_process:
            on_progress(meter.report(done))
        if (done % recipe.every == 0 or last) and accelerator.is_main_process:
            finished = finish(average.module, recipe, crops, done)
            keep(finished, done)
            save_checkpoint(out / CHECKPOINT, identity, done, parts)
            on_validation(done, finished)
    accelerator.wait_for_everyone()
    if finished is None:  # nothing was left to do, or this is not the main process
        finished = finish(average.module, recipe, crops, recipe.iterations)
    if recipe.iterations == 0 and accelerator.is_main_process:
        keep(finished, 0)
    return finished


def _ahead(crops: Crops, iterations: Iterable[int], indices: Sequence[int]) -> Iterator[Tensor]:
    """The batches of the iterations, each cut while the one before is learned from."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for iteration in iterations:
            ready, coming = coming, pool.submit(crops.batch, iteration, indices)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _gain(codec: WaveletCodec) -> float:
    """What brings the strongest latent channel of the closed form to the width of the compander; 1 without one."""
    width = {"uniform": None, "gaussian": 68.65, "laplace": 42.0}[codec.config.quantizer]
    return 1.0 if width is None else width / codec.config.latent_std[0]


def _groups(codec: WaveletCodec, recipe: CodecRecipe) -> list[dict[str, Any]]:
    """Parts that start from the closed form learn at their own, smaller rate, in proportion to their scale."""
    gain = _gain(codec)
    encoder, decoder, rest = [], [], []
    for part in codec.modules():
        own = list(part.parameters(recurse=False))
        closed = recipe.closed_form and isinstance(part, (LinearEncoder, LinearDecoder))
        (rest if not closed else encoder if isinstance(part, LinearEncoder) else decoder).extend(own)
    peaks = (recipe.linear_lr * gain, recipe.linear_lr / gain, recipe.lr)
    return [
        {"params": params, "peak": peak, "lr": peak}
        for params, peak in zip((encoder, decoder, rest), peaks, strict=True)
        if params
    ]


def _draw_step(iteration: int, recipe: CodecRecipe) -> float:
    low, high = recipe.steps
    state = np.random.SeedSequence((recipe.seed, iteration)).generate_state(1)[0] / 2**32
    return low * (high / low) ** float(state)


class _Meter:
    """Means since the last report."""

    def __init__(self, batch: int):
        self.batch = batch
        self._reset()

    def _reset(self) -> None:
        self.sums, self.count, self.start = [0.0] * 3, 0, time.perf_counter()

    def add(self, *values: Tensor) -> bool:
        """Whether all of them are numbers."""
        self.sums = [total + float(value.detach()) for total, value in zip(self.sums, values, strict=True)]
        self.count += 1
        return all(map(math.isfinite, self.sums))

    def report(self, iteration: int) -> Progress:
        loss, bpp, error = (total / self.count for total in self.sums)
        rate = self.batch * self.count / (time.perf_counter() - self.start)
        self._reset()
        # A [-1, 1] signal has a range of 2: four times the squared error of one of range 1.
        return Progress(iteration, loss, bpp, -10 * math.log10(error / 4) if error > 0 else math.inf, rate)


def _identity(recipe: CodecRecipe, signals: Sequence[Tensor]) -> str:
    """What a run must share with a checkpoint to go on from it: the recipe and the data."""
    digest = hashlib.sha256()
    for signal in signals:
        digest.update(str(tuple(signal.shape)).encode() + signal.numpy().tobytes())
    return json.dumps(recipe.key() | {"signals": digest.hexdigest()}, sort_keys=True)


@torch.no_grad()
def finish(trained: nn.Module, recipe: CodecRecipe, crops: Crops, done: int) -> WaveletCodec:
    """A codec to keep: statistics of its latents over 64 batches of crops, channels in order of their energy."""
    assert isinstance(trained, WaveletCodec)
    trained = copy.deepcopy(trained).cpu().eval()
    values = [trained.analysis(crops.batch(-n, range(recipe.batch))).transpose(0, 1).flatten(1) for n in range(1, 65)]
    mean, std = torch.cat(values, 1).mean(1), torch.cat(values, 1).std(1)
    std[std == 0] = 1  # a channel that is never used
    order = torch.arange(len(std))
    # The companding widths of `laplace` belong to their channels, which training has ordered by nothing.
    if isinstance(trained.encoder, LinearEncoder) and trained.config.quantizer != "laplace":
        order = std.argsort(descending=True)
        for parameter in (trained.encoder.weight, trained.encoder.bias):
            parameter.copy_(parameter[order])
        for parameter in _read_by(trained.decoder):
            parameter.copy_(parameter[:, order])
    numbers = [tuple(float(f"{value:.6g}") for value in statistic[order].tolist()) for statistic in (mean, std)]
    provenance = {"command": "cml train codec recipe.yaml", "iterations": done, "torch": torch.__version__}
    config = replace(trained.config, latent_mean=numbers[0], latent_std=numbers[1], provenance=provenance)
    codec = WaveletCodec(config, recipe.name)
    codec.load_state_dict(trained.state_dict())
    return codec


def _read_by(decoder: nn.Module) -> list[Tensor]:
    """The tensors of a decoder whose second axis is the latent channels."""
    if isinstance(decoder, LightDecoder):
        return [decoder.linear.weight, decoder.enter.weight, decoder.variance]
    if isinstance(decoder, LinearDecoder):
        return [decoder.weight]
    return []


def card(recipe: CodecRecipe, done: int, device: str) -> str:
    """The model card: what the codec is and how it came about."""
    return (
        f"# {recipe.name}\n\nA wavelet codec of cml, trained with `cml train codec recipe.yaml`: {done} of "
        f"{recipe.iterations} iterations on `{device}`. The recipe:\n\n```yaml\n{dump_recipe(recipe)}```\n"
    )
