"""Answers token by token: <SUITE>_TOKENS.json has how probable the model finds each token of one
column's answers.

It is kept for those who look (a report's heat map); no metric reads it. The first answers of a
column say enough, so long ones and many of them are cut, and the file says how many there were.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from unteach.engines.base import Ids
from unteach.evals.base import ScoredRow
from unteach.evals.rows import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_ROWS, MOST_TOKENS = 200, 256
DECIMALS = 3


def listed(
    of: str, asked: Asked, rows: list[ScoredRow], tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, Any]:
    """The first answer of each row: its prompt, question and text, its tokens as texts and their
    log-probs, in nats."""
    shown = zip(rows[:MOST_ROWS], asked.prompt_texts, asked.questions, strict=False)
    listed_rows = [_row(row, prompt, question, tokenizer) for row, prompt, question in shown]
    return {"of": of, "count": len(rows), "rows": listed_rows}


def _row(
    row: ScoredRow, prompt: str, question: str, tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, Any]:
    score = row.scores[0]
    return {
        "index": row.index,
        "prompt": prompt,
        "question": question,
        "answer": row.texts[0],
        "length": len(score.token),
        "tokens": pieces(tuple(score.token[:MOST_TOKENS].tolist()), tokenizer),
        "logprob": [round(float(value), DECIMALS) for value in score.logprob[:MOST_TOKENS]],
    }


def pieces(ids: Ids, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Each token's own text: what it adds to the one before it, as some tokenizers drop a text's
    first space."""
    if not ids:
        return []
    alone = tokenizer.batch_decode([[one] for one in ids])
    together = tokenizer.batch_decode([list(pair) for pair in pairwise(ids)])
    added = [
        pair.removeprefix(first) if pair.startswith(first) else last
        for pair, first, last in zip(together, alone, alone[1:], strict=False)
    ]
    return [alone[0], *added]
