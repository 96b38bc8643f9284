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

from unteach.engines.base import Ids, Pair
from unteach.engines.batching import BatchPlanner, Row
from unteach.lazy import torch
from unteach.models.decoding import list_models
from unteach.models.hidden_states import SharedRows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MAX_PROMPTS_PER_ROW = 16
"""A row grows to that many times its prompt: beyond, what its answers spend on not seeing each
other outweighs it."""
MAX_WIDTH = 4096
TOLERANCE = {"float32": 1e-4, "float64": 1e-6}
"""How far a log-prob in a shared row may be from the plain one, by dtype."""
HALF_TOLERANCE = 0.25
"""The same in half precision, which has noise of its own."""
WINDOW_SETTING = re.compile(r"(window|chunk)(_?size)?$")
"""Names of a configuration that say how far a token sees: sliding_window, window_size,
attention_chunk_size."""


def count_tokens(pair: Pair) -> int:
    """Count the tokens of a prompt with its answer."""
    prompt, answer = pair
    return len(prompt) + len(answer)


def find_shared_prompt(pairs: Sequence[Pair]) -> Pair | None:
    """Find the first prompt that has a second answer, and return it with that."""
    first_answers: dict[Ids, Ids] = {}
    for prompt, answer in pairs:
        if not prompt or not answer:
            continue
        first_answer = first_answers.setdefault(prompt, answer)
        if first_answer != answer:
            return prompt, answer
    return None


def find_max_width(model: "PreTrainedModel") -> int | None:
    """Find the width of the longest row that may be shared; None where none may."""
    windows = []
    for part in list_models(model):
        config = part.config.get_text_config()
        if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
            return None
        for name, value in config.to_dict().items():
            if not WINDOW_SETTING.search(name):
                continue
            # A setting that is off is None, False or 0.
            if type(value) is int and value > 0:
                windows.append(value)
    return min(windows, default=MAX_WIDTH)


def find_tolerance(model: "PreTrainedModel") -> float:
    """Find how far a log-prob may move for rounding in the precision that passes run in."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return HALF_TOLERANCE
    dtype = next(model.parameters()).dtype
    dtype_name = str(dtype).removeprefix("torch.")
    return TOLERANCE.get(dtype_name, HALF_TOLERANCE)


class AnswerTree:
    """The answers to one prompt as a tree, which holds once what several of them begin with.

    A *place* is where the model is asked for a next token: place 0 is the end of the prompt, and
    every token after which another one comes makes one more. A *prediction* is one of the different
    (place, token): the log-prob of that token at that place.

    Attributes:
        predictions: the number of each prediction, from 1.
        prediction_at: by place, the number of the prediction whose token stands there; 0 at the
            prompt's end.
        place_after: by the number of a prediction, the place that its token makes.
        paths: by answer, the numbers of its predictions.
    """

    def __init__(self, answers: Sequence[Ids] = ()):
        self.predictions: dict[tuple[int, int], int] = {}
        self.prediction_at = [0]
        self.place_after = {0: 0}
        self.paths = [self.add(answer) for answer in answers]

    def add(self, answer: Ids) -> list[int]:
        """Add an answer and return the numbers of its predictions."""
        path = []
        number = 0
        for token in answer:
            if number not in self.place_after:
                self.place_after[number] = len(self.prediction_at)
                self.prediction_at.append(number)
            prediction = (self.place_after[number], token)
            next_number = len(self.predictions) + 1
            number = self.predictions.setdefault(prediction, next_number)
            path.append(number)
        return path

    def count_new_places(self, answer: Ids) -> int:
        """Count the places that an answer would add."""
        number = 0
        num_new = 0
        for i, token in enumerate(answer):
            num_tokens_left = len(answer) - 1 - i
            place = self.place_after.get(number)
            if place is None:
                num_new += 1
            if place is None or (place, token) not in self.predictions:
                # From here on the answer goes its own way.
                return num_new + num_tokens_left
            number = self.predictions[place, token]
        return num_new

    @property
    def num_tokens(self) -> int:
        """How many tokens a row has beyond the prompt."""
        return len(self.prediction_at) - 1

    def list_tokens(self) -> list[int]:
        """List the token of each place but the first."""
        predictions = list(self.predictions)
        tokens = []
        for number in self.prediction_at[1:]:
            _, token = predictions[number - 1]
            tokens.append(token)
        return tokens

    def list_parents(self) -> list[int]:
        """List, for each place but the first, the place that it follows."""
        predictions = list(self.predictions)
        parents = []
        for number in self.prediction_at[1:]:
            place, _ = predictions[number - 1]
            parents.append(place)
        return parents


class PromptPlanner(BatchPlanner):
    """Plans rows of one prompt and several answers.

    Args:
        find_max_width: called once rows are planned; returns how wide one may be, or None where
            every answer has a row of its own.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        max_items: int | None,
        budget: int,
        find_max_width: Callable[[], int | None],
    ):
        super().__init__(pairs, count_tokens, max_items, budget)
        self.find_max_width = find_max_width
        self.trees: dict[int, AnswerTree] = {}
        """By the first item of a row."""

    def make_rows(self, indices: Sequence[int]) -> list[Row]:
        """Put items into rows: an answer goes to the open row of its prompt while it fits there."""
        max_width = self.find_max_width()
        if max_width is None:
            return super().make_rows(indices)
        rows: list[Row] = []
        open_rows: dict[Ids, Row] = {}
        for index in indices:
            prompt, answer = self.items[index]
            limit = min(max_width, self.budget, MAX_PROMPTS_PER_ROW * len(prompt))
            row = open_rows.get(prompt)
            if row is None or not self._fits(row, index, limit):
                row = []
                rows.append(row)
                open_rows[prompt] = row
                self.trees[index] = AnswerTree()
            row.append(index)
            self.trees[row[0]].add(answer)
        return rows

    def _fits(self, row: Row, index: int, limit: int) -> bool:
        """Say whether one more item leaves a row of no more than `limit` tokens, or answers."""
        if len(row) >= min(limit, self.max_items):
            return False
        prompt, answer = self.items[index]
        tree = self.trees[row[0]]
        width = len(prompt) + tree.num_tokens
        return width + tree.count_new_places(answer) <= limit

    def get_width(self, row: Row) -> int:
        if len(row) == 1:
            return super().get_width(row)
        first = row[0]
        prompt, _ = self.items[first]
        return len(prompt) + self.trees[first].num_tokens


def lay_out(
    prompts: Sequence[Ids],
    trees: Sequence[AnswerTree],
    width: int,
    like: "Tensor",
) -> SharedRows:
    """Lay out rows of a prompt and a tree: what each token sees, its position, what is asked.

    Args:
        prompts: of each row.
        trees: of each row's answers.
        width: tokens of a row, to which the rows are padded on the right.
        like: a tensor of the weights' dtype and device.
    """
    num_rows = len(trees)
    sees = np.zeros((num_rows, width, width), dtype=bool)
    # Padding sees itself: no row is empty.
    sees[:, range(width), range(width)] = True
    position_ids = np.zeros((num_rows, width), dtype=np.int64)
    targets: list[tuple[int, int, int]] = []
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        num_prompt = len(prompt)
        sees[row, :num_prompt, :num_prompt] = np.tri(num_prompt, dtype=bool)
        position_ids[row, :num_prompt] = range(num_prompt)
        # Place 0 is the column of the prompt's last token, and the others follow it.
        prompt_end = num_prompt - 1
        for column, parent in enumerate(tree.list_parents(), num_prompt):
            parent_column = prompt_end + parent
            sees[row, column] |= sees[row, parent_column]
            position_ids[row, column] = position_ids[row, parent_column] + 1
        for place, token in tree.predictions:
            targets.append((row, prompt_end + place, token))

    mask = torch.zeros(sees.shape, dtype=like.dtype, device=like.device)
    is_hidden = ~torch.from_numpy(sees).to(like.device)
    lowest = torch.finfo(like.dtype).min
    mask.masked_fill_(is_hidden, lowest)
    rows, columns, labels = torch.tensor(targets, device=like.device).unbind(-1)
    return SharedRows(
        targets=(rows, columns, labels),
        position_ids=torch.from_numpy(position_ids).to(like.device),
        sees=mask[:, None],
    )
