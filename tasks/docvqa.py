"""Questions about pages, asked to a trained model that reads pictures: what codecs do to it."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score
from cml.tasks.text import anls
from PIL import Image
from torch import Tensor, nn

from cml.data.docvqa import Page, load_docvqa, scaled
from cml.data.latents import ModelInputs, map_items
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.train.loop import TrainingTime

_DONUT = "hf:naver-clova-ix/donut-base-finetuned-docvqa"
_SIZE, _SMALLEST = 1280, 32
_TOKENS = 100  # answers of DocVQA are a few words
_INSTRUCTION = "Answer the question using a single word or phrase."
_READ_AT_ONCE = 2**31  # bytes of pages that are kept in memory


class DocVqa:
    """What does the page answer? The model comes trained, from transformers, so nothing adapts to a codec.

        page, padded to `size` on the right and below --codec--> cut to its own size --with each question--> an answer

    Models are those behind two pipelines of transformers: Donut, a vision encoder with a text decoder, and the chat
    models that take pictures (LLaVA, Qwen-VL, SmolVLM, ...). All decode greedily. An answer counts by its normalized
    Levenshtein similarity to the likest of the given ones, 0 below one half (ANLS).

    Args:
        data: "docvqa:PATH".
        backbone: "hf:NAME" or "hf:FOLDER"; None for Donut as its makers fine-tuned it on DocVQA.
        size: of the longer side of a page, to which larger ones are scaled down; None for 1280.
        epochs: must be None: there is no training.
    """

    name = "docvqa"
    version = 1
    main_score = "anls"
    channels = 3
    flips: tuple[str, ...] = ("none",)
    patch = 16  # says nothing here, but keys hold it
    epochs = 0
    frozen = True
    quick_size: int | None = None
    views: tuple[str, ...] = ("pixels", "reconstruction")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if epochs is not None:
            raise CmlError("The task docvqa takes no epochs: its model is trained.")
        if size is not None and size < _SMALLEST:
            raise CmlError(f"The task docvqa needs pages of {_SMALLEST} pixels or more on the longer side, not {size}.")
        self.data = load_docvqa(data)
        self.backbone = backbone or _DONUT
        self._limit = size or _SIZE
        self._sizes = [scaled(page.size, self._limit) for page in self.data.pages]
        self.size: tuple[int, int] = tuple(np.max(self._sizes, 0).tolist())
        self._model = Answerer(self.backbone)
        share = np.prod(self._sizes, 1).mean() / np.prod(self.size)
        self.description = (
            f"{self.data.description}, padded to {self.size[1]}x{self.size[0]}, of which they fill {share:.0%}"
        )
        self._loaded: list[Tensor] | None = None

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "longest": self._limit,
            "size": self.size,
            "backbone": self.backbone,
            **self._model.key,
        }

    @property
    def chance(self) -> float:
        """Of saying nothing."""
        return 0.0

    def count(self, split: str) -> int:
        return len(self.data.pages) if split == "test" else 0

    def load(self, on_item: Callable[[], None]) -> None:
        count = self.count("test")
        if self._loaded is None and count * self.channels * self.size[0] * self.size[1] <= _READ_AT_ONCE:
            self._loaded = map_items(lambda index: self.signal("test", index), count, on_item)

    def signal(self, split: str, index: int) -> Tensor:
        if self._loaded is not None:
            return self._loaded[index]
        page = self.data.pages[index].image(self._limit)
        paper = page.flatten(1).median(1).values  # mostly
        full = paper.view(3, 1, 1).repeat(1, *self.size)
        full[:, : page.shape[1], : page.shape[2]] = page
        return full

    def labels(self, split: str) -> Tensor:
        """int64 (N, 3): the number of each page, and its height and width without padding; the rest is in `data`."""
        rows = [(number, *size) for number, size in enumerate(self._sizes)] if split == "test" else []
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    def normalization(self) -> tuple[Tensor, Tensor]:
        return torch.ones(3), torch.zeros(3)  # the model's processor wants 8-bit samples

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        return self._model, "stem"

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        raise CmlError("The model of the task docvqa is trained already.")

    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        assert isinstance(model, Answerer)
        answers, pages = [], []
        for place, (number, height, width) in enumerate(inputs.labels.tolist()):
            page = self.data.pages[number]
            seen = inputs.batch(torch.tensor([place]))[0, :, :height, :width].to(torch.uint8)
            picture = Image.fromarray(seen.permute(1, 2, 0).contiguous().numpy())
            answers.append([model.answer(picture, question.text) for question in page.questions])
            pages.append(page)
        return answers_score(answers, pages)


class Answerer(nn.Module):
    """A model of transformers that answers questions about pictures, with its own preprocessing and prompt.

    What it multiplies is not counted: that depends on the answers.

    Args:
        name: "hf:NAME" or "hf:FOLDER".

    Attributes:
        key: what its answers depend on beside the page and the question.

    Raises:
        CmlError: no such model, no network, or a model of another kind.
    """

    def __init__(self, name: str):
        super().__init__()
        family, _, source = name.partition(":")
        if family != "hf" or not source:
            raise CmlError(f"The task docvqa asks a model of transformers, hf:NAME or hf:FOLDER, not {name!r}.")
        self.stem = nn.Identity()
        self._chats, self._pipeline = _load(name, source)
        self.model: Any = self._pipeline.model.eval()
        template = getattr(self._pipeline.processor, "chat_template", None)
        preprocessing = f"{self._pipeline.image_processor.to_json_string()} {template}"
        self.key: Mapping[str, Any] = {
            "weights": _fingerprint(self.model),
            "preprocessing": hashlib.sha256(preprocessing.encode()).hexdigest()[:12],
            "decoding": f"greedy, {_TOKENS} tokens, {self.model.dtype}, {self._pipeline.device.type}",
            "instruction": _INSTRUCTION if self._chats else None,
            "transformers": importlib.metadata.version("transformers"),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)

    @torch.no_grad()
    def answer(self, page: Image.Image, question: str) -> str:
        """The likeliest answer, token by token; "" for none."""
        if not self._chats:
            return self._pipeline(image=page, question=question)[0]["answer"] or ""
        content = [{"type": "image", "image": page}, {"type": "text", "text": f"{question}\n{_INSTRUCTION}"}]
        said = self._pipeline(text=[{"role": "user", "content": content}], return_full_text=False)
        return said[0]["generated_text"].strip()


def answers_score(answers: Sequence[Sequence[str]], pages: Sequence[Page]) -> Score:
    """How well the questions of each page are answered.

    `anls` and `exact_match`, which leaves case and outer space aside, are means over questions. A page's `outcome` is
    its share of the first, so that the mean over pages is the score.
    """
    likest = [
        [
            max(anls(said, answer) for answer in question.answers)
            for said, question in zip(row, page.questions, strict=True)
        ]
        for row, page in zip(answers, pages, strict=True)
    ]
    questions = np.concatenate(likest)
    return Score(
        metrics={"anls": float(questions.mean()), "exact_match": float((questions == 1).mean())},
        items={
            "outcome": np.array([sum(row) for row in likest]) * len(pages) / len(questions),
            "predicted": np.array([json.dumps(list(row)) for row in answers]),
        },
    )


def _load(name: str, source: str) -> tuple[bool, Any]:
    """Whether the model chats, and its pipeline."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, pipeline

    greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": _TOKENS}
    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
        donut = config.model_type == "vision-encoder-decoder" and config.encoder.model_type == "donut-swin"
        made: Any = None
        if donut:
            made = pipeline("document-question-answering", model=source, trust_remote_code=False, **greedy)
        elif type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            made = pipeline("image-text-to-text", model=source, trust_remote_code=False, **greedy)
    except Exception as error:  # whatever the hub, the network or a file of theirs raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        here = "" if Path(source).is_dir() else " check the name and the network, or"
        raise CmlError(
            f"Cannot load {name} ({reason}):{here} bring config.json, model.safetensors, and the files of its "
            "tokenizer and its processor in a folder, and give hf:FOLDER."
        ) from error
    if made is None or (not donut and getattr(made.processor, "chat_template", None) is None):
        raise CmlError(
            f"{name} is a {config.model_type} that cannot be asked about a page; take Donut, or a model of "
            "transformers that takes pictures and has a chat template."
        )
    return not donut, made


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        # As bytes, for numpy has no bfloat16.
        digest.update(key.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
