"""Compressed files of rows are read as the same files unpacked."""

import gzip
from pathlib import Path

import pyarrow
import pytest

from unteach.config.files import get_format, get_stem
from unteach.data.io.tables import open_table
from unteach.errors import UserError

TEXTS = {
    "rows.csv": 'question,answer\nWho?,"Ann,\nof Où"\nWhere?,Here.\n',
    "rows.tsv": "question\tanswer\nWho?\tAnn.\n",
    "rows.jsonl": '{"question": "Où?", "answer": "Là."}\n{"question": "Who?", "answer": "Ann."}\n',
    "rows.json": '[{"question": "Où?", "answer": "Là."}]\n',
    "rows.txt": "A document.\nOf two lines.\n",
}


def compress(file: Path, content: bytes) -> None:
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(content))
        return
    with pyarrow.output_stream(str(file), compression="zstd") as stream:
        stream.write(content)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("name", TEXTS)
def test_rows_are_those_of_the_plain_file(tmp_path: Path, name: str, ending: str) -> None:
    plain, packed = tmp_path / name, tmp_path / f"{name}{ending}"
    plain.write_text(TEXTS[name], encoding="utf-8-sig")
    compress(packed, plain.read_bytes())
    expected, found = list(open_table(plain)), list(open_table(packed))
    assert [row for _, row in found] == [row for _, row in expected]
    assert [place.number for place, _ in found] == [place.number for place, _ in expected]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_torn_file_is_said(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.jsonl{ending}"
    rows = "".join(
        f'{{"question": "{number}?", "answer": "{hash(number)}"}}\n' for number in range(999)
    )
    compress(file, rows.encode())
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        list(open_table(file))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_what_is_not_utf8_is_named_by_its_line(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.csv{ending}"
    compress(file, "question,answer\nWho?,Ann.\nOù?,Là.\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 3: not UTF-8"):
        list(open_table(file))


def test_a_plain_file_under_such_a_name_is_said(tmp_path: Path) -> None:
    for ending in (".gz", ".zst"):
        file = tmp_path / f"rows.csv{ending}"
        file.write_text(TEXTS["rows.csv"])
        with pytest.raises(UserError, match="no whole csv file"):
            list(open_table(file))


def test_a_folder_of_compressed_files_is_read(tmp_path: Path) -> None:
    for number in range(3):
        compress(tmp_path / f"part-{number}.csv.gz", TEXTS["rows.csv"].encode())
    assert len(list(open_table(tmp_path))) == 6


def test_formats_and_names() -> None:
    assert get_format("a/Rows.JSONL.gz") == ".jsonl"
    assert get_format("rows.parquet.gz") == get_format("model.tar.gz") == get_format("x.gz") == ""
    assert get_stem(Path("a/rows.jsonl.gz")) == get_stem(Path("a/rows.csv")) == "rows"
