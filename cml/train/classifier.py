"""Training a classifier on a latent data set, on one process or many, and reading it back."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import Subset

import cml
from cml import hub
from cml.codecs.factory import create_codec
from cml.data.augment import LatentOperators
from cml.data.batches import LatentBatch
from cml.data.latent_dataset import LatentDataset
from cml.data.latent_files import Manifest, read_manifest
from cml.data.loading import latent_loader
from cml.errors import CmlError, CodecError, DataError
from cml.files import write_atomic
from cml.models.adapters import stem_shape
from cml.models.backbones import StemShape, build
from cml.train import processes
from cml.train.batch_norm import normalize_globally
from cml.train.checkpoint import CHECKPOINT, LOSSES, resume, save_checkpoint
from cml.train.loop import Recipe

PATCH = 16
REPORT = 20  # steps between two looks at the losses
SMOOTHING = 0.1
TEST_SPLITS = ("test", "val", "valid", "validation", "dev")


@dataclass(frozen=True)
class ClassifierPlan:
    """What is trained, and how.

    Attributes:
        backbone: "cml:small", "timm:NAME" or "hf:NAME".
        recipe: optimizer settings; its `batch_size` is that of all processes together.
        patch: samples of the signal a token, along each axis.
        flip: mirror half of the samples, as latents (see `cml.data.augment`).
        seed: of weights, order and flips.
    """

    backbone: str = "cml:small"
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=8))
    patch: int = PATCH
    flip: bool = False
    seed: int = 0

    def __post_init__(self):
        r = self.recipe
        if min(r.epochs, r.batch_size, self.patch) < 1 or self.seed < 0 or not 0 < r.lr < math.inf:
            raise CmlError("epochs, batch and patch are 1 or more, the seed 0 or more, lr a positive number.")


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step, steps: how many are done, of how many.
        epoch: of the last step, from 0.
        loss: mean over the steps since the last report, each over the global batch.
        rate: samples a second, of all processes together.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    rate: float


@dataclass(frozen=True)
class Trained:
    """A finished classifier.

    Attributes:
        model: in evaluation mode: float latents (B, c, *grid) to logits (B, classes).
        accuracy: share of the test split that it tells right; None where there is no test split.
        tested: size of the test split.
    """

    model: nn.Module
    accuracy: float | None
    tested: int


def train_classifier(
    data: str | Path,
    out: str | Path,
    plan: ClassifierPlan = ClassifierPlan(),
    *,
    workers: int = 0,
    every: int = 500,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train a classifier on the split `train` of a latent data set, and test it.

        OUT/model.safetensors, config.json    the model; `load_classifier` reads it
        OUT/losses.csv                        step, epoch, loss (mean over the global batch), lr
        OUT/training.pt                       the checkpoint

    Cross-entropy with smoothed labels, classes weighted by the inverse square root of their frequency, full batches.
    Runs under Hugging Face Accelerate. Order, flips, losses and normalization are those of the global batch, and
    dropout is off: the result does not depend on the number of processes, but for how floats round. Interrupted and
    called again, on as many processes or others, it goes on from the last checkpoint as if nothing had been; on as
    many, it ends with the very same weights.

    Args:
        data: folder or URL of the data set.
        out: folder.
        plan: what is trained.
        workers: processes that read and decode latents, for each training process.
        every: steps between checkpoints.
        on_progress: called every 20 steps, on the main process.

    Raises:
        DataError: the data set is damaged, without labels, smaller than a batch, or of mixed sizes.
        CmlError: the backbone cannot read the latents, the batch is no multiple of the processes, the folder holds
            another run, or the loss is no longer a number.
    """
    out, recipe = Path(out), plan.recipe
    manifest, train = read_manifest(data), LatentDataset(data, "train")
    stem, objective = _stem(manifest, train, plan.patch), _Objective(manifest, train.labels, plan)
    accelerator = processes.accelerator()
    share, rest = divmod(recipe.batch_size, accelerator.num_processes)
    if rest:
        raise CmlError(
            f"The batch, {recipe.batch_size}, must be a multiple of the {accelerator.num_processes} processes."
        )
    device, main = accelerator.device, accelerator.is_main_process
    objective.to(device)
    loader = latent_loader(train, share, shuffle=True, workers=workers, device=device, seed=plan.seed, drop_last=True)
    torch.manual_seed(plan.seed)
    bare = without_dropout(build(plan.backbone, stem, len(objective.classes))[0])
    bare = normalize_globally(bare) if processes.count() > 1 else bare
    bare.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model, optimizer = accelerator.prepare(bare, recipe.optimizer(bare))
    identity = json.dumps({"plan": asdict(plan), "data": _revision(manifest)}, sort_keys=True)
    parts = {"model": bare, "optimizer": optimizer, "loader": loader}
    done, steps = resume(out / CHECKPOINT, identity, parts), recipe.epochs * len(loader)
    log = _Log(out / LOSSES if main else None, done, steps, recipe.batch_size)
    config = _config(manifest, stem, objective.classes, plan)
    while done < steps:
        model.train()
        epoch = done // len(loader)
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * recipe.factor(done, steps)
            loss = objective(model, batch, done)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            log.add(done + 1, epoch, recipe.lr * recipe.factor(done, steps), loss)
            done += 1
            kept = done % every == 0 or done == steps
            if kept or done % REPORT == 0:
                progress = log.report()
                if main:
                    on_progress(progress)
            if kept and main:
                _keep(out, bare, config | {"steps": done})
                save_checkpoint(out / CHECKPOINT, identity, done, parts)
    accuracy, tested = _test(bare, data, manifest, recipe.batch_size, workers, device)
    if main:
        _keep(out, bare, config | {"steps": done, "accuracy": accuracy, "tested": tested})
    accelerator.wait_for_everyone()
    return Trained(bare.eval(), accuracy, tested)


def load_classifier(name: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """What `train_classifier` left in a folder, or "hf:OWNER/NAME" on the hub.

    Returns:
        The model in evaluation mode, float latents (B, c, *grid) to logits (B, classes), and its config: `classes`,
        `codec`, `codec_id` and `preprocessing` (whose latents it reads, and of what), and how it was trained.

    Raises:
        CmlError: there is no such classifier, or it is damaged.
    """
    folder = hub.locate(str(name))
    if folder is None:
        raise CmlError(f"There is no model {name}; `cml train classifier DATASET -o {name}` makes one.")
    config, tensors = hub.load(folder)
    try:
        model = build(
            config["backbone"],
            StemShape(**config["stem"] | {"grid": tuple(config["stem"]["grid"])}),
            len(config["classes"]),
        )[0]
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CmlError(f"{folder} holds no classifier of cml: {str(error).splitlines()[0]}.") from error
    return model.eval(), config


def without_dropout(model: nn.Module) -> nn.Module:
    """A model whose dropout and stochastic depth are off."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "drop_prob", None), float):
            module.drop_prob = 0.0  # pyright: ignore[reportArgumentType]
    return model


def _stem(manifest: Manifest, train: LatentDataset, patch: int) -> StemShape:
    if manifest.ndim != 2:
        raise CmlError(f"Classifiers read pictures, and these latents have {manifest.ndim} spatial axes.")
    height, width = train[0][0].original_shape[1:]
    return stem_shape(manifest.latent_channels, manifest.patch, (height, width), patch)


class _Objective(nn.Module):
    """Latents to the loss of this process's share of the global batch; the mean over processes is that of the batch.

        LatentBatch --to the device, floats--> half of the samples flipped --model--> logits --> weighted cross-entropy

    Which samples are flipped hangs on the seed, the step, and the place in the global batch.
    """

    weights: Tensor

    def __init__(self, manifest: Manifest, labels: np.ndarray, plan: ClassifierPlan):
        super().__init__()
        if len(labels) < plan.recipe.batch_size:
            raise DataError(
                f"There are {len(labels)} samples to train on, fewer than a batch of {plan.recipe.batch_size}: take a "
                "smaller batch."
            )
        if labels.min() < 0:
            raise DataError("The latents have no labels to learn: encode a source that has, one folder a class.")
        self.classes = manifest.classes or tuple(map(str, range(int(labels.max()) + 1)))
        if len(self.classes) < 2:
            raise DataError(f"The latents are all of one class, {self.classes}: a classifier tells two or more.")
        counts = torch.bincount(torch.tensor(labels), minlength=len(self.classes)).clamp(min=1)
        weights = counts.float().rsqrt()
        self.register_buffer("weights", weights / weights[torch.tensor(labels)].mean())
        self.seed, self.batch = plan.seed, plan.recipe.batch_size
        self.operators = _operators(manifest) if plan.flip else None

    def forward(self, model: nn.Module, batch: LatentBatch, step: int) -> Tensor:
        device = self.weights.device
        x = batch.to_float(device)
        if self.operators is not None:
            drawn = np.random.default_rng((self.seed, step)).random(self.batch) < 0.5
            chosen = processes.own(torch.from_numpy(drawn)).to(device)
            x[chosen] = self.operators.flip(x[chosen], -1)
        logits = model(x.contiguous(memory_format=torch.channels_last))
        labels = batch.labels.to(device, non_blocking=True)
        # The mean of the weighted losses, not the weighted mean: that is divided by what hangs on the other samples.
        return F.cross_entropy(logits, labels, self.weights, reduction="none", label_smoothing=SMOOTHING).mean()


def _operators(manifest: Manifest) -> LatentOperators:
    codec = create_codec(manifest.codec)
    if codec.spec.codec_id != manifest.codec_id:
        raise CodecError(
            f"Flips need the codec of the latents, and {manifest.codec} is another one by now ({codec.spec.codec_id}, "
            f"not {manifest.codec_id}): train without flips, or encode again."
        )
    return LatentOperators(codec)


class _Log:
    """The losses of the global batches: gathered now and then, appended to a file, summed up for people."""

    def __init__(self, path: Path | None, done: int, steps: int, batch: int):
        self.path, self.steps, self.batch = path, steps, batch
        self.rows: list[tuple[int, int, float]] = []
        self.losses: list[Tensor] = []
        self.start = time.perf_counter()
        if path is not None:
            # What a killed run wrote after its last checkpoint comes again; its last line may be half of one.
            old = path.read_text().split("\n")[1:-1] if path.exists() else []
            kept = [line for line in old if int(line.partition(",")[0]) <= done]
            write_atomic(path, "\n".join(["step,epoch,loss,lr", *kept, ""]))

    def add(self, step: int, epoch: int, lr: float, loss: Tensor) -> None:
        self.rows.append((step, epoch, lr))
        self.losses.append(loss.detach())

    def report(self) -> Progress:
        losses = processes.mean(torch.stack(self.losses)).tolist()
        rows = list(zip(self.rows, losses, strict=True))
        for (step, _, _), loss in rows:
            if not math.isfinite(loss):
                raise CmlError(f"The loss is no longer a number at step {step}: take a smaller lr.")
        if self.path is not None:
            with open(self.path, "a") as file:
                file.writelines(f"{step},{epoch},{loss:.9g},{lr:.9g}\n" for (step, epoch, lr), loss in rows)
        step, epoch, _ = self.rows[-1]
        rate = self.batch * len(rows) / (time.perf_counter() - self.start)
        self.rows, self.losses, self.start = [], [], time.perf_counter()
        return Progress(step, self.steps, epoch, sum(losses) / len(losses), rate)


@torch.no_grad()
def _test(
    model: nn.Module, data: str | Path, manifest: Manifest, batch: int, workers: int, device: torch.device
) -> tuple[float | None, int]:
    """Accuracy on the test split and its size; nothing is chosen by it."""
    split = next((name for name in TEST_SPLITS if name in manifest.splits), None)
    if split is None:
        return None, 0
    model.eval()
    test = LatentDataset(data, split)
    # Not dealt by the loader, which leaves out what is too little for all processes.
    mine = range(processes.rank(), len(test), processes.count())
    loader = latent_loader(Subset(test, mine), batch, workers=workers, device=device, rank=0, world=1) if mine else ()
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for part in loader:
        x = part.to_float(device).contiguous(memory_format=torch.channels_last)
        right = model(x).argmax(1) == part.labels.to(device)
        counts += torch.stack([right.sum(), right.new_tensor(len(part), dtype=torch.int64)])
    right, tested = processes.total(counts).tolist()
    return right / tested, tested


def _revision(manifest: Manifest) -> dict[str, Any]:
    """What a run must share with a checkpoint to go on from it."""
    shards = [shard.sha256 for shard in manifest.splits["train"].shards]
    return {"codec": manifest.codec_id, "classes": manifest.classes, "shards": shards}


def _config(manifest: Manifest, stem: StemShape, classes: Sequence[str], plan: ClassifierPlan) -> dict[str, Any]:
    return {
        "backbone": plan.backbone,
        "stem": asdict(stem),
        "classes": list(classes),
        "codec": manifest.codec,
        "codec_id": manifest.codec_id,
        "preprocessing": dict(manifest.preprocessing),
        "training": asdict(plan) | {"data": dict(manifest.source)},
        "torch": torch.__version__,
        "cml": cml.__version__,
    }


def _keep(out: Path, model: nn.Module, config: dict[str, Any]) -> None:
    scored = ""
    if config.get("accuracy") is not None:
        scored = f", accuracy {config['accuracy']:.4f} on {config['tested']} test samples"
    card = (
        f"# A classifier of latents\n\n`{config['backbone']}` on latents of `{config['codec']}`, trained with "
        f"`cml train classifier` for {config['steps']} steps{scored}.\n\n```json\n{json.dumps(config, indent=1)}\n```\n"
    )
    hub.save(out, config, model.state_dict(), card)
