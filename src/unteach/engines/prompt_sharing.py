"""Answers to one prompt in one row: the prompt goes through the model once, and what several of
them begin with too.

A row is the prompt and then a tree of the answers' tokens without those that end one, which predict
nothing. Each token sees the prompt, what comes before it in its answers, and itself, and its
position counts that. A model whose attention does not take such a row (windows narrower than it,
FlashAttention, positions of its own) is found out beforehand; there each answer has its own row.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unteach.engines.base import Ids
from unteach.engines.batching import BatchPlanner, Row
from unteach.lazy import torch
from unteach.models.forward import Shared
from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Pair = tuple[Ids, Ids]
WORTH = 16
"""A row grows to that many times its prompt: beyond, what its answers spend on not seeing each
other outweighs it."""
WIDEST = 4096
CLOSE = {"float32": 1e-4, "float64": 1e-6}
"""How far a log-prob in a shared row may be from the plain one, by dtype; half precision has noise
of its own."""
CLOSE_HALF = 0.25


NARROWING = re.compile(r"(window|chunk)(_?size)?$")
"""Names of a configuration that say how far a token sees: sliding_window, window_size,
attention_chunk_size."""


def tokens(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])


def windows(model: "PreTrainedModel") -> int | None:
    """The longest row that may be shared, None where none may."""
    config = unwrap_model(model).config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return None
    settings = config.to_dict().items()
    narrow = [
        value
        for name, value in settings
        if NARROWING.search(name) and type(value) is int and value > 0
    ]
    return min(narrow, default=WIDEST)


class Tree:
    """The answers to a prompt. asked: each different (place, token): what is asked where, from 0.

    Places are 0, the end of the prompt, and one for each token after which another comes. place:
    that of an asked token, by its number from 1; before: the number of the token at each place, and
    at 0 none.
    """

    def __init__(self, answers: Sequence[Ids] = ()):
        self.asked: dict[tuple[int, int], int] = {}
        self.place, self.before = {0: 0}, [0]
        self.paths = [self.add(answer) for answer in answers]

    def add(self, answer: Ids) -> list[int]:
        """The numbers of the answer's tokens."""
        path = [0]
        for token in answer:
            if path[-1] not in self.place:
                self.place[path[-1]] = len(self.before)
                self.before.append(path[-1])
            path.append(self.asked.setdefault((self.place[path[-1]], token), len(self.asked) + 1))
        return path[1:]

    def more(self, answer: Ids) -> int:
        """How many places an answer would add."""
        at, found = 0, 0
        for number, token in enumerate(answer):
            found += at not in self.place
            if at not in self.place or (self.place[at], token) not in self.asked:
                return found + len(answer) - 1 - number
            at = self.asked[self.place[at], token]
        return found

    def tokens(self) -> list[int]:
        """The token of each place but the first."""
        token = [token for _, token in self.asked]
        return [token[number - 1] for number in self.before[1:]]

    def above(self) -> list[int]:
        """The place that each place but the first follows."""
        place = [place for place, _ in self.asked]
        return [place[number - 1] for number in self.before[1:]]


class ByPrompt(BatchPlanner):
    """Rows of one prompt and several answers.

    widest: asked once rows are planned, how wide one may be; None, and every answer has a row of
    its own.
    """

    def __init__(
        self, pairs: Sequence[Pair], most: int | None, budget: int, widest: Callable[[], int | None]
    ):
        super().__init__(pairs, tokens, most, budget)
        self.ask_widest = widest
        self.trees: dict[int, Tree] = {}

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        widest = self.ask_widest()
        if widest is None:
            return super().rows(numbers)
        rows, open_rows = list[Row](), dict[Ids, Row]()
        for number in numbers:
            prompt, answer = self.items[number]
            row = open_rows.get(prompt)
            if row is None or not self._fits(
                row, number, min(widest, self.budget, WORTH * len(prompt))
            ):
                row = open_rows[prompt] = []
                rows.append(row)
                self.trees[number] = Tree()
            row.append(number)
            self.trees[row[0]].add(answer)
        return rows

    def _fits(self, row: Row, number: int, most: int) -> bool:
        prompt, answer = self.items[number]
        tree = self.trees[row[0]]
        return (
            len(row) < min(most, self.most)
            and len(prompt) + len(tree.before) - 1 + tree.more(answer) <= most
        )

    def width(self, row: Row) -> int:
        prompt, answer = self.items[row[0]]
        return len(prompt) + (len(answer) if len(row) == 1 else len(self.trees[row[0]].before) - 1)


def layout(prompts: Sequence[Ids], trees: Sequence[Tree], longest: int, like: "Tensor") -> Shared:
    """How rows of a prompt and a tree, padded to `longest`, are read; `like` has the weights' dtype
    and device."""
    sees = np.zeros((len(trees), longest, longest), dtype=bool)
    sees[:, range(longest), range(longest)] = True  # padding sees itself: no row is empty
    places = np.zeros((len(trees), longest), dtype=np.int64)
    asked: list[tuple[int, int, int]] = []
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        seen, place, end = sees[row], places[row], len(prompt) - 1
        seen[: end + 1, : end + 1] = np.tri(end + 1, dtype=bool)
        place[: end + 1] = range(end + 1)
        for column, above in enumerate(tree.above(), end + 1):
            seen[column] |= seen[end + above]
            place[column] = place[end + above] + 1
        asked += [(row, end + at, token) for at, token in tree.asked]
    mask = torch.zeros(sees.shape, dtype=like.dtype, device=like.device)
    mask.masked_fill_(~torch.from_numpy(sees).to(like.device), torch.finfo(like.dtype).min)
    rows, columns, labels = torch.tensor(asked, device=like.device).unbind(-1)
    return Shared((rows, columns, labels), torch.from_numpy(places).to(like.device), mask[:, None])
