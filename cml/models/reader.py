"""A reader of text lines: convolutions on tokens, a recurrence along the line, one character or none a step (CTC)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cml.models.backbones import InvertedResidual, StemShape


class Reader(nn.Module):
    """What stands in a line.

    input (B, c, *grid) --patch convolution--> tokens (B, w, h, n) --inverted residuals--> --a column each-->
      (B, s * w', n) --each column unfolds into s steps--> (B, w', s * n) --two-way GRU--> (B, classes, s * n)

    Fine steps are needed because a step holds one character at most: coarse tokens hold more. (Graves et al., 2006; Shi
    et al., "CRNN", 2017)

    Args:
        stem: what the stem reads.
        classes: characters and, first, the blank.
        steps: a column of tokens unfolds into.
        width, depth: channels of the tokens, and how many blocks there are.
        hidden: channels of the steps, and of the recurrence each way.
    """

    def __init__(self, stem: StemShape, classes: int, steps: int, width: int = 64, depth: int = 3, hidden: int = 128):
        super().__init__()
        self.steps = steps
        rows = stem.grid[0] // stem.patch
        self.stem = nn.Conv2d(stem.channels, width, stem.patch, stem.patch, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*[InvertedResidual(width) for _ in range(depth)])
        self.column = nn.Conv1d(width * rows, hidden * steps, 1, bias=False)
        self.column_norm = nn.BatchNorm1d(hidden)
        self.recurrence = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, rows, columns), as many columns as there are, to logits (B, steps, classes)."""
        tokens = self.blocks(self.stem_norm(self.stem(x)))
        columns = self.column(tokens.flatten(1, 2))  # (B, s * w', n)
        steps = columns.unflatten(1, (-1, self.steps)).transpose(2, 3).flatten(2)
        steps = torch.relu(self.column_norm(steps))
        return self.head(self.recurrence(steps.transpose(1, 2))[0])


def best_path(logits: Tensor, alphabet: str) -> list[str]:
    """The texts of the likeliest paths: repeats are one character, blanks (class 0) are none.

    Args:
        logits: (B, steps, classes).
        alphabet: of the classes from 1.
    """
    return [_collapse(path, alphabet) for path in logits.argmax(2).tolist()]


def _collapse(path: Sequence[int], alphabet: str) -> str:
    kept = [now for before, now in zip([0, *path], path, strict=False) if now and now != before]
    return "".join(alphabet[number - 1] for number in kept)
