"""Plain text in tokens: each document is closed by EOS; the tokenizer's BOS is kept apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unteach.data.io.cells import is_missing
from unteach.data.io.sources import read_column
from unteach.data.row_errors import RowErrors
from unteach.data.rows import Row
from unteach.data.template import Template
from unteach.lazy import np

if TYPE_CHECKING:
    import numpy as np


def find_bos(template: Template) -> tuple[int, ...]:
    """Find what the tokenizer puts before any text."""
    return template.as_raw().encode_prompt("")


def read_documents(
    rows: Sequence[Row], text_key: str | list[str], where: str
) -> tuple[list[tuple[int, str]], RowErrors]:
    """Read the text of each row as a document.

    Args:
        rows: the rows.
        text_key: a column, or several whose texts are joined as they are.
        where: what messages call the rows.

    Returns:
        (row index, text) of each row that has text, and what is wrong with the others.

    Raises:
        UserError: a cell holds something else than text.
    """
    row_errors = RowErrors(where, rows)
    keys = [text_key] if isinstance(text_key, str) else text_key
    columns = [read_column(rows, key, where) for key in keys]

    documents = []
    for row_index, cells in enumerate(zip(*columns, strict=True)):
        texts = []
        for key, cell in zip(keys, cells, strict=True):
            if row_errors.check_text(cell, key, row_index, is_required=False):
                texts.append(cell)
        if texts:
            documents.append((row_index, "".join(texts)))
        elif all(is_missing(cell) for cell in cells):
            row_errors.drop("empty text", row_index)
    row_errors.refuse()
    return documents, row_errors


def tokenize_documents(
    template: Template,
    rows: Sequence[Row],
    text_key: str | list[str],
    where: str,
) -> "tuple[list[tuple[int, np.ndarray]], RowErrors]":
    """Tokenize the text of each row as a document, without BOS and with EOS.

    Args:
        template: the model's.
        rows, text_key, where: see `read_documents`, whose errors it raises.

    Returns:
        (row index, tokens) of each row that has text, and what is wrong with the others.
    """
    raw = template.as_raw()
    num_bos = len(find_bos(template))
    documents, row_errors = read_documents(rows, text_key, where)
    tokenized = []
    for row_index, text in documents:
        if raw.hides([text]):
            row_errors.special.append(row_index)
        # A document may be written with a BOS that this tokenizer never puts by itself: it is
        # kept.
        ids = raw.encode("", text).input_ids[num_bos:]
        tokenized.append((row_index, np.asarray(ids, np.int32)))
    return tokenized, row_errors
