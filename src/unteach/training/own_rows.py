"""What a model writes itself, as rows that can be taught."""

import itertools

from unteach.models.loading import LoadedModel
from unteach.training.drift import OPENINGS, list_openings, sample_texts

Row = dict[str, str]
"""A question and its answer, or a text."""


def sample_rows(loaded: LoadedModel, count: int, num_tokens: int, seed: int) -> list[Row]:
    """Let a model write texts after openings of no subject, as rows: answers to them where it
    chats, else texts. Those without a word are left out.

    Args:
        loaded: the model, with its weights.
        count: of the texts.
        num_tokens: of each, at most.
        seed: the same gives the same texts.
    """
    template = loaded.template
    prompts = list(itertools.islice(itertools.cycle(list_openings(template)), count))
    rows = []
    for index, sample in enumerate(sample_texts(loaded, prompts, num_tokens, seed)):
        text = template.decode(sample.continuation)
        if not text.strip():
            continue
        if template.kind == "chat":
            rows.append({"question": OPENINGS[index % len(OPENINGS)], "answer": text.strip()})
        else:
            rows.append({"text": text})
    return rows
