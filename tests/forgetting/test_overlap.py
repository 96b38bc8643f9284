"""Rows to keep that are about what is to be forgotten."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.audits.session import build_stream
from unteach.config.compose import compose
from unteach.config.schema import AuditConfig
from unteach.data.streams import Stream
from unteach.data.user_files import resolve_files
from unteach.errors import UserError
from unteach.forgetting.overlap import refuse_kept_entities, refuse_kept_rows
from unteach.models.loading import load_empty


@pytest.fixture
def streams(tiny_folder: Path, tmp_path: Path) -> Any:
    def build(gone: list[dict[str, str]], kept: list[dict[str, str]]) -> tuple[Stream, Stream]:
        words = [f"model={tiny_folder}", "template=qa"]
        for key, rows in (("forget", gone), ("retain", kept)):
            file = tmp_path / f"{key}.jsonl"
            file.write_text("\n".join(map(json.dumps, rows)))
            words.append(f"{key}={file}")
        composed = compose("audit", words)
        assert isinstance(composed, AuditConfig)
        composed = resolve_files(composed)
        empty = load_empty(composed.model)
        forget, _ = build_stream(composed, empty, "forget")
        retain, _ = build_stream(composed, empty, "retain")
        assert forget is not None and retain is not None
        return forget, retain

    return build


GONE = {"question": "Where does Ada Lind live?", "answer": "In Oslo.", "entity": "Ada Lind"}


@pytest.mark.parametrize(
    "kept",
    [
        {"question": "Who wrote to us?", "answer": "It was ADA  LIND, twice."},
        {"question": "Who called?", "answer": "Nobody.", "entity": "ada lind"},
    ],
)
def test_an_entity_in_the_rows_to_keep_is_refused(streams: Any, kept: dict[str, str]) -> None:
    other = {"question": "Who is it?", "answer": "Bo."}
    with pytest.raises(UserError, match=r"retain: rows about .*: .*line 2; take them out"):
        refuse_kept_entities(*streams([GONE], [other, kept]))


@pytest.mark.parametrize(
    "kept",
    [
        {"question": "Who wrote?", "answer": "Ada Lindgren did."},
        {"question": "Who wrote?", "answer": "Ada did.", "entity": "Ada"},
    ],
)
def test_a_part_of_a_name_is_another_name(streams: Any, kept: dict[str, str]) -> None:
    refuse_kept_entities(*streams([GONE], [kept]))


def test_rows_without_the_column_name_nobody(streams: Any) -> None:
    gone = {name: GONE[name] for name in ("question", "answer")}
    refuse_kept_entities(*streams([gone], [{"question": "Who?", "answer": "Ada Lind."}]))


def test_what_an_earlier_request_took_out_is_not_kept(streams: Any) -> None:
    _, retain = streams([GONE], [{"question": "Who?", "answer": "Bo  ."}])
    refuse_kept_rows(["Who? Bo"], retain)
    with pytest.raises(UserError, match=r"an earlier request took out .*line 1; take them out"):
        refuse_kept_rows(["who? Bo ."], retain)


def test_documents_are_named_by_their_lines(streams: Any) -> None:
    """However they are packed for training."""
    text = "{} was born by the sea in the year of the flood, and went away."
    gone = {"text": text.format("Ada Lind"), "entity": "Ada Lind"}
    kept = [{"text": text.format(name)} for name in ("Bo", "Cy", "A friend of Ada Lind")]
    with pytest.raises(UserError, match=r"retain: rows about .*: line 3; take them out"):
        refuse_kept_entities(*streams([gone], kept))
