"""The autoencoders that diffusers saves, as codecs of pictures and of video.

    vae:FOLDER            AutoencoderKL: Stable Diffusion 1.x to 3, SDXL, FLUX
    cosmos:FOLDER         AutoencoderKLCosmos: the continuous tokenizers of Cosmos; a picture is a video of one frame
    cosmos-video:FOLDER   the same, for video
    vae:hf:owner/name     the same from the Hugging Face hub

A folder holds config.json and diffusion_pytorch_model.safetensors, by itself or in the `vae` of a pipeline. Signals are
fed in [-1, 1], as the networks were trained. Their own scaling stands in for the statistics of the latents.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cml import hub
from cml.codecs.generative import GenerativeCodec
from cml.errors import CmlError, CodecError

WEIGHTS = "diffusion_pytorch_model.safetensors"
_PARTS = (hub.CONFIG, WEIGHTS)
_CLASSES = {"vae": "AutoencoderKL", "cosmos": "AutoencoderKLCosmos", "cosmos-video": "AutoencoderKLCosmos"}
# Names of the attention layers in files of before diffusers 0.18, Stable Diffusion 1.x among them.
_OLD_NAME = re.compile(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Of the deviation of the latents: fine beside what these networks lose by themselves.
_DEFAULT_STEP = 0.25


class _GroupNorm(nn.GroupNorm):
    """Without torch's check that a group has two values: a small picture has one where it is coarsest."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Vae(GenerativeCodec):
    """A picture autoencoder: AutoencoderKL."""

    def analysis(self, x: Tensor) -> Tensor:
        return self.network.encode(x).latent_dist.mode()  # pyright: ignore[reportCallIssue]

    def synthesis(self, z: Tensor) -> Tensor:
        return self.network.decode(z).sample  # pyright: ignore[reportCallIssue]


class Cosmos(Vae):
    """A video autoencoder, given one frame: AutoencoderKLCosmos."""

    def analysis(self, x: Tensor) -> Tensor:
        return super().analysis(x[:, :, None])[:, :, 0]

    def synthesis(self, z: Tensor) -> Tensor:
        return super().synthesis(z[:, :, None])[:, :, 0]


class CosmosVideo(Vae):
    """A video autoencoder: AutoencoderKLCosmos, which keeps the first frame by itself and each F_t after it together.

        x (3, t, H, W) --last frame repeated up to 1 + k F_t--> latents (c, 1 + k, H/F, W/F) --> 1 + k F_t frames, cut

    The network sees a whole clip at once: give it long ones in blocks.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._frames: int = self.network.config["temporal_compression_ratio"]  # pyright: ignore
        cell = (self._frames, self._patch, self._patch)
        self._spec = replace(self._spec, ndim=3, axis_patches=() if self._frames == self._patch else cell)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        first, *rest = super()._grid((shape[0], *shape[2:]))
        return first, 1 - (1 - shape[1]) // self._frames, *rest

    def _size(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return 1 + (grid[0] - 1) * self._frames, *super()._size(grid[1:])

    def _z(self, x: Tensor) -> Tensor:
        frames = self._size(self._grid(tuple(x.shape))[1:])[0]
        return super()._z(x[:, torch.arange(frames).clamp(max=x.shape[1] - 1)])


_CODECS = {"vae": Vae, "cosmos": Cosmos, "cosmos-video": CosmosVideo}


def load_vae(name: str, step: float | None = None, entropy: str | None = None) -> Vae:
    """The codec of "vae:FOLDER", "cosmos:FOLDER" or "cosmos-video:FOLDER"; FOLDER may be "hf:owner/name".

    Args:
        name: of the codec.
        step: quantization step, in the unit of the latents; None for a quarter of their deviation.
        entropy: an entropy back-end, or `fp16` to store latents unrounded as float16; None for `ctx`.

    Raises:
        CodecError: an option is out of range.
        CmlError: the files are missing, or not those of such an autoencoder.
    """
    kind, _, path = name.partition(":")
    folder = _locate(kind, path)
    network = _load_network(_CLASSES[kind], kind, folder)
    config: dict[str, Any] = {key: value for key, value in network.config.items() if not key.startswith("_")}
    cosmos = kind != "vae"
    mean, std = _cosmos_statistics(config) if cosmos else _statistics(config)
    return _CODECS[kind](
        name,
        network,
        channels=config["in_channels"],
        patch=config["spatial_compression_ratio"] if cosmos else 2 ** (len(config["block_out_channels"]) - 1),
        mean=mean,
        std=std,
        config={"network": _CLASSES[kind], **config} | ({"ndim": 3} if kind == "cosmos-video" else {}),
        settings={"network": _CLASSES[kind], "diffusers": _diffusers().__version__},
        default_step=float(f"{_DEFAULT_STEP * float(std.mean()):.3g}"),
        step=step,
        entropy=entropy,
    )


def _diffusers() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            import diffusers
    except ImportError as error:
        raise CodecError("vae: and cosmos: need the package diffusers: pip install diffusers.") from error
    return diffusers


def _locate(kind: str, path: str) -> Path:
    """The folder of config and weights."""
    root = _fetch(kind, path.removeprefix("hf:")) if path.startswith("hf:") else Path(path)
    for folder in (root, root / "vae"):
        if all((folder / part).is_file() for part in _PARTS):
            return folder
    raise CmlError(
        f"{path or 'The empty path'} holds no {' and '.join(_PARTS)}, neither by itself nor in a folder `vae`: bring "
        f"both, as diffusers saves them, and name their folder, {kind}:FOLDER."
    )


def _fetch(kind: str, repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo_id, _, revision = repository.partition("@")
    wanted = [*_PARTS, *(f"vae/{part}" for part in _PARTS)]
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise CmlError(
            f"Cannot fetch {repo_id!r} from the Hugging Face hub ({type(error).__name__}): check the name, your access "
            f"and the network, or bring the {' and '.join(_PARTS)} of its folder `vae` and name that, {kind}:FOLDER."
        ) from error


def _load_network(wanted: str, kind: str, folder: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    written = hub.read_config(folder)
    found = written.get("_class_name")
    if found != wanted:
        advice = next((f": use {other}:" for other, name in _CLASSES.items() if name == found), "")
        raise CmlError(f"{folder} holds a network of the class {found}, and {kind}: reads {wanted}{advice}.")
    diffusers = _diffusers()
    try:
        network: nn.Module = getattr(diffusers, wanted).from_config(written)
        state = load_file(folder / WEIGHTS)
        network.load_state_dict({_OLD_NAME.sub(_renamed, key): tensor for key, tensor in state.items()})
    except (OSError, SafetensorError) as error:
        raise CmlError(f"Cannot read {folder / WEIGHTS}: {error}.") from error
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        detail = str(error).splitlines()[1 if isinstance(error, RuntimeError) and "\n" in str(error) else 0]
        raise CmlError(f"{folder} does not hold the weights of its config: {detail.strip().rstrip('.')}.") from error
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = _GroupNorm
    return network


def _renamed(match: re.Match[str]) -> str:
    return _NEW_NAMES[match[0]]


def _statistics(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and deviation by which a diffusion model is fed these latents: (z - shift) * scaling."""
    c = config["latent_channels"]
    mean = config["latents_mean"] or [config["shift_factor"] or 0.0] * c
    std = torch.tensor(config["latents_std"] or [1.0] * c)
    return torch.tensor(mean).float(), std.float() / config["scaling_factor"]


def _cosmos_statistics(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Those of the first frame, each channel's of several."""
    c = config["latent_channels"]
    first = [torch.tensor(config[key] or [usual] * c).float().reshape(c, -1)[:, 0] for key, usual in _USUAL]
    return first[0], first[1]


_USUAL = (("latents_mean", 0.0), ("latents_std", 1.0))
