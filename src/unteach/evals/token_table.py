"""Answers token by token: <SUITE>_TOKENS.json has how probable the model finds each token of one
column's answers.

It is kept for those who look (a report's heat map); no metric reads it. The first answers of a
column say enough, so long ones and many of them are cut, and the file says how many there were.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from unteach.engines.base import Ids
from unteach.evals.base import ScoredRow
from unteach.evals.rows import TokenizedColumn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_ROWS = 200
MAX_TOKENS = 256
DECIMALS = 3


def build_table(
    name: str,
    column: TokenizedColumn,
    rows: list[ScoredRow],
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, Any]:
    """Give the first answer of each row: its prompt, question and text, its tokens as texts and
    their log-probs, in nats.

    Args:
        name: of the column.
        column: the rows, tokenized.
        rows: the same rows with the scores of their answers.
        tokenizer: spells the tokens.
    """
    entries = []
    for position, row in enumerate(rows[:MAX_ROWS]):
        score = row.scores[0]
        token_ids = tuple(score.token[:MAX_TOKENS].tolist())
        logprobs = score.logprob[:MAX_TOKENS].tolist()
        entry = {
            "index": row.index,
            "prompt": column.prompt_texts[position],
            "question": column.questions[position],
            "answer": row.texts[0],
            "length": len(score.token),
            "tokens": spell_tokens(token_ids, tokenizer),
            "logprob": [round(logprob, DECIMALS) for logprob in logprobs],
        }
        entries.append(entry)
    return {
        "of": name,
        "count": len(rows),
        "rows": entries,
    }


def spell_tokens(ids: Ids, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Spell each token's own text, which is what it adds to the one before it: some tokenizers drop
    a text's first space."""
    if not ids:
        return []
    alone = tokenizer.batch_decode([[token] for token in ids])
    pairs = tokenizer.batch_decode([list(pair) for pair in pairwise(ids)])
    texts = [alone[0]]
    for pair, first, second in zip(pairs, alone, alone[1:], strict=False):
        if pair.startswith(first):
            texts.append(pair.removeprefix(first))
        else:
            texts.append(second)
    return texts
