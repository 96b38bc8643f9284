"""Plain text in tokens: each document is closed by EOS; the tokenizer's BOS is kept apart."""

from collections.abc import Iterator, Sequence

from unteach.data.io.cells import is_missing
from unteach.data.io.sources import get_cell
from unteach.data.row_errors import RowErrors
from unteach.data.rows import Row
from unteach.data.template import Template
from unteach.errors import UserError


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
    documents = list(_iterate_documents(text_key, row_errors))
    row_errors.refuse()
    return documents, row_errors


def _iterate_documents(
    text_key: str | list[str], row_errors: RowErrors
) -> Iterator[tuple[int, str]]:
    """Yield (row index, text) of each row that has text; what is wrong with others is noted."""
    if not row_errors.rows:
        raise UserError(f"{row_errors.where}: there are no rows")
    keys = [text_key] if isinstance(text_key, str) else text_key
    for row_index, row in enumerate(row_errors.rows):
        texts = []
        for key in keys:
            cell = get_cell(row_errors.rows, row_index, row, key, row_errors.where)
            if row_errors.check_text(cell, key, row_index, is_required=False):
                texts.append(cell)
        if texts:
            yield row_index, "".join(texts)
        elif all(is_missing(row[key]) for key in keys):
            row_errors.drop("empty text", row_index)


def tokenize_documents(
    template: Template, text_key: str | list[str], row_errors: RowErrors
) -> Iterator[tuple[int, list[int]]]:
    """Tokenize the text of each row as a document, without BOS and with EOS.

    Args:
        template: the model's.
        text_key: a column, or several whose texts are joined as they are.
        row_errors: has the rows, and collects what is wrong with them.

    Yields:
        (row index, tokens) of each row that has text.
    """
    raw = template.as_raw()
    num_bos = len(find_bos(template))
    for row_index, text in _iterate_documents(text_key, row_errors):
        if raw.hides([text]):
            row_errors.special.append(row_index)
        # A document may be written with a BOS that this tokenizer never puts by itself: it is
        # kept.
        yield row_index, raw.encode("", text).input_ids[num_bos:]
