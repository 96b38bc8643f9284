"""Answers to one prompt in one row: the prompt goes through the model once.

A row is the prompt and then its answers without their last tokens, which predict nothing. Each answer's positions go on
from the prompt's end, and it sees the prompt and itself. A model whose attention does not take such a row (windows
narrower than it, FlashAttention, positions of its own) is found out beforehand; there each answer has its own row.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.engines.base import Ids
from unteach.engines.batches import Batching, Row
from unteach.models.forward import Shared
from unteach.models.layers import causal_of

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[Ids, Ids]
WORTH = 16
"""A row grows to that many times its prompt: beyond, what its answers spend on not seeing each other outweighs it."""
WIDEST = 4096
CLOSE = {"float32": 1e-4, "float64": 1e-6}
"""How far a log-prob in a shared row may be from the plain one, by dtype; half precision has noise of its own."""
CLOSE_HALF = 0.25


def tokens(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])


def windows(model: Any) -> int | None:
    """The longest row that may be shared, None where none may."""
    config = causal_of(model).config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return None
    narrow = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in narrow if isinstance(window, int)), default=WIDEST)


class ByPrompt(Batching):
    """Rows of one prompt and several answers.

    widest: asked once rows are planned, how wide one may be; None, and every answer has a row of its own.
    """

    def __init__(self, pairs: Sequence[Pair], most: int | None, budget: int, widest: Callable[[], int | None]):
        super().__init__(pairs, tokens, most, budget)
        self.ask_widest, self.widest = widest, 0

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        widest = self.ask_widest()
        if widest is None:
            return super().rows(numbers)
        self.widest = widest
        rows, open_rows = list[Row](), dict[Ids, Row]()
        for number in numbers:
            prompt, _ = self.items[number]
            row = open_rows.get(prompt)
            if row is None or not self._fits(prompt, [*row, number]):
                row = open_rows[prompt] = []
                rows.append(row)
            row.append(number)
        return rows

    def _fits(self, prompt: Ids, row: Row) -> bool:
        most = min(self.widest, self.budget, WORTH * len(prompt))
        return len(row) <= self.most and self.width(row) <= most

    def width(self, row: Row) -> int:
        prompt = len(self.items[row[0]][0])
        return prompt + sum(len(self.items[number][1]) - (len(row) > 1) for number in row)


def layout(rows: list[tuple[Ids, list[Ids]]], longest: int, like: "Tensor") -> Shared:
    """How the rows (prompt, answers), padded to `longest`, are read; `like` has the dtype and device of the weights."""
    import torch

    # the part of the row that each token belongs to: 0 the prompt, 1… the answers, -1 padding
    part = torch.full((len(rows), longest), -1)
    places = torch.zeros(len(rows), longest, dtype=torch.long)
    asked: list[tuple[int, int, int]] = []
    for i, (prompt, answers) in enumerate(rows):
        part[i, : len(prompt)] = 0
        places[i, : len(prompt)] = torch.arange(len(prompt))
        start = len(prompt)
        for number, answer in enumerate(answers, 1):
            end = start + len(answer) - 1
            part[i, start:end] = number
            places[i, start:end] = torch.arange(len(prompt), len(prompt) + len(answer) - 1)
            columns = [len(prompt) - 1, *range(start, end)]
            asked += [(i, column, token) for column, token in zip(columns, answer, strict=False)]
            start = end
    row, column, label = torch.tensor(asked, device=like.device).unbind(-1)
    part = part.to(like.device)
    earlier = torch.ones(longest, longest, dtype=torch.bool, device=like.device).tril()
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])  # padding sees padding: no row is empty
    sees = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    sees.masked_fill_(~(seen & earlier), torch.finfo(like.dtype).min)
    return Shared((row, column, label), places.to(like.device), sees[:, None])
