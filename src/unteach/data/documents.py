"""Plain text in tokens: a document is closed by EOS, and the tokenizer's BOS is told apart."""

from typing import Any

from unteach.data.io import sources, tables
from unteach.data.row_errors import RowErrors
from unteach.data.template import Template
from unteach.lazy import np


def find_bos(template: Template) -> tuple[int, ...]:
    """Find what the tokenizer puts before any text."""
    return template.as_raw().encode_prompt("")


def tokenize_documents(
    template: Template, rows: list[Any], text_key: str | list[str], where: str
) -> tuple[list[tuple[int, Any]], RowErrors]:
    """Tokenize each document that can be: (row, tokens with EOS after them), and what is wrong with
    the others."""
    plain, faults, bos = template.as_raw(), RowErrors(where, rows), len(find_bos(template))
    keys, documents = [text_key] if isinstance(text_key, str) else text_key, []
    columns = [sources.column(rows, key, where) for key in keys]
    for number, cells in enumerate(zip(*columns, strict=True)):
        good = [
            faults.text(cell, key, number, needed=False)
            for key, cell in zip(keys, cells, strict=True)
        ]
        if any(good):
            text = "".join(cell for cell, is_text in zip(cells, good, strict=True) if is_text)
            if plain.hides([text]):
                faults.special.append(number)
            # A document may be written with a BOS that this tokenizer puts nowhere by itself: it is
            # kept.
            documents.append((number, np.asarray(plain.encode("", text).input_ids[bos:], np.int32)))
        elif all(tables.missing(cell) for cell in cells):
            faults.drop("empty text", number)
    faults.refuse()
    return documents, faults
