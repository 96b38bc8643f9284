"""Which tokens of an answer are a fact's value, and means over the tokens of answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unteach.audits.facts import find_words
from unteach.engines.base import Ids, Pair
from unteach.errors import UserError
from unteach.models.forward import TokenOutputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def build_value_pair(
    tokenizer: "PreTrainedTokenizerBase", prompt: Ids, answer: str, value: str
) -> Pair | None:
    """Build the pair that asks for a value inside an answer: all tokens before it, and its own.

    The value's tokens are those that share a character with the first place where it stands as
    words of its own. What follows them is left out, for no token is read by those before it.

    Args:
        prompt: ids of what is before the answer.
        answer: text, tokenized by itself and without special tokens.
        value: text; white space around it does not count.

    Returns:
        None where the value is empty, or no words of their own in the answer.

    Raises:
        UserError: the tokenizer does not say which characters a token has.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__}: does not say which characters a token has, so the tokens "
            "of a value are not found; take a model with a fast tokenizer (tokenizer.json)"
        )
    stripped = value.strip()
    start = find_words(answer, stripped)
    if not stripped or start < 0:
        return None
    end = start + len(stripped)
    encoded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    ids = tuple(encoded["input_ids"])
    inside = []
    for index, (token_start, token_end) in enumerate(encoded["offset_mapping"]):
        if token_end > start and token_start < end:
            inside.append(index)
    if not inside:
        return None
    first, last = inside[0], inside[-1]
    return (*prompt, *ids[:first]), ids[first : last + 1]


def count_shared_tokens(answers: Sequence[Ids]) -> int:
    """Count the tokens that all answers begin with, and leave each one that is its own."""
    shared = 0
    shortest = min(map(len, answers))
    while shared < shortest - 1 and len({ids[shared] for ids in answers}) == 1:
        shared += 1
    return shared


def refuse_empty_answers(pairs: Sequence[Pair]) -> None:
    """Raise UserError where no token of an answer is predicted: it is empty, or one token that
    nothing precedes."""
    for index, (prompt, answer) in enumerate(pairs):
        if len(answer) <= (0 if prompt else 1):
            raise UserError(
                f"answer {index}: has no token that the model predicts; leave the row out, or give "
                "it a prompt"
            )


def refuse_not_finite(means: np.ndarray) -> None:
    """Raise UserError where a mean log-prob is no number."""
    if not np.isfinite(means).all():
        raise UserError(
            "the log-probs of some answers are not finite inside this model; compute in another "
            "dtype (model.model_args.dtype=float32)"
        )


def compute_answer_means(outputs: TokenOutputs, value: "Tensor") -> "Tensor":
    """Compute the mean of a value [N] over the positions of each row: [B], in fp64."""
    return outputs.per_row(value.double()) / outputs.lengths()
