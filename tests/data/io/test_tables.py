"""Reading tables: what is written in any format reads back, and what is broken is said with its
line."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unteach.data.io import sources, tables
from unteach.data.io.cells import read_text
from unteach.data.rows import locate_row
from unteach.errors import UserError

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries({"input": CELLS, "output, “two”": CELLS}), min_size=1, max_size=5
)


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the file's ending."""
    if file.suffix in (".csv", ".tsv"):
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(
                opened, list(rows[0]), delimiter="," if file.suffix == ".csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".jsonl":
        file.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=2)
    else:
        table = pyarrow.Table.from_pylist(rows)
        make = pyarrow.ipc.new_stream if file.stem == "stream" else pyarrow.ipc.new_file
        with make(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return file


NAMES = (
    "rows.csv",
    "rows.tsv",
    "rows.jsonl",
    "rows.json",
    "rows.parquet",
    "rows.arrow",
    "stream.arrow",
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ROWS)
def test_rows_read_back_equal(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    for name in NAMES:
        table = tables.open_table(write(tmp_path / name, rows))
        assert table.columns == tuple(rows[0])
        assert [row for _, row in table] == rows
        assert [row for _, row in table] == rows, "a table can be gone through again"


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfinput,output\n"a\nb",c\n\nd,e\n')
    rows = sources.load_rows({"path": str(file)})
    assert rows == [{"input": "a\nb", "output": "c"}, {"input": "d", "output": "e"}]
    assert [locate_row(rows, i, "") for i in range(2)] == [f"{file}, line 2", f"{file}, line 5"]


def test_semicolons_where_the_header_has_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("input;output\na,b;c\n")
    assert [row for _, row in tables.open_table(tmp_path / "rows.csv")] == [
        {"input": "a,b", "output": "c"}
    ]


def test_types_are_kept(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": None, "c": [1.5], "d": True}, {"a": 2, "b": "x", "c": [], "d": False}]
    for name in ("rows.jsonl", "rows.json", "rows.parquet", "rows.arrow"):
        assert [row for _, row in tables.open_table(write(tmp_path / name, rows))] == rows


def test_text_files(tmp_path: Path) -> None:
    for name, words in (("b", "One.\n\nTwo.\n"), ("a", "Three.")):
        (tmp_path / f"{name}.txt").write_text(words)
    (tmp_path / "LICENSE").write_text("not a table")
    folder = tables.open_table(tmp_path)
    assert [(str(place), row["text"]) for place, row in folder] == [
        (f"{tmp_path}/a.txt", "Three."),
        (f"{tmp_path}/b.txt", "One.\n\nTwo.\n"),
    ]
    assert [file.name for file in folder.files] == ["a.txt", "b.txt"]
    lines = tables.open_table(tmp_path / "b.txt", by_line=True)
    assert [(place.number, row["text"]) for place, row in lines] == [
        (1, "One."),
        (2, ""),
        (3, "Two."),
    ]


def test_what_datasets_saved(tmp_path: Path) -> None:
    rows = [{"input": "a", "n": 1}, {"input": "b", "n": 2}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    table = tables.open_table(tmp_path / "saved")
    assert [row for _, row in table] == rows and table.files
    write(tmp_path / "x.jsonl", rows)
    named = {"path": "json", "data_files": str(tmp_path / "x.jsonl"), "split": "train"}
    assert [row for _, row in tables.open_table(named)] == rows


CSV = b"input,output\n"
BROKEN = {
    "opened.csv": (
        CSV + b'a,b\n"c,d\ne,f\n',
        "lines 3 to 4: broken quoting .a quote is opened and never closed",
    ),
    "within.csv": (CSV + b'a,"b"c\nd,e\n', "line 2: broken quoting .*written twice"),
    "short.csv": (CSV + b"a,b\nc\n", "line 3: 1 cells where the header has 2 .input, output."),
    "long.csv": (CSV + b"a,b,c\n", "line 2: 3 cells where the header has 2"),
    "twice.csv": (b"input,input\na,b\n", "the header names 'input' twice"),
    "latin.csv": (
        CSV + b"a,b\nc,\xe9t\xe9\n",
        r"line 3: not UTF-8 .byte 0xe9 at character 3.; save it as UTF-8",
    ),
    "utf16.csv": ("input,output\n".encode("utf-16"), "this is UTF-16"),
    "empty.csv": (b"", "the file is empty"),
    "header.csv": (CSV, "there are no rows in it"),
    "torn.jsonl": (b'{"input": "a"}\n{"input": "b', "line 2: not JSON .*the last line is torn"),
    "comma.jsonl": (b'{"input": "a",}\n{"input": "b"}\n', "line 1: not JSON"),
    "list.jsonl": (b'["a"]\n', "line 1: a row must be a JSON object"),
    "blank.jsonl": (b"\n\n", "there are no rows"),
    "torn.json": (b'[{"input": "a"},\n{"input"', "line 2: not JSON"),
    "text.json": (b'"a"', "must be an array of objects"),
    "row.json": (b"[1]", "row 1: a row must be a JSON object"),
    "torn.parquet": (b"PAR1xxxx", "no whole parquet file"),
    "torn.arrow": (b"ARROW1xxxxxx", "no whole Arrow file"),
    "digits.jsonl": (
        b'{"input": ' + b"1" * 5000 + b"}\n",
        "line 1: cannot be read .a number of more than 4,300 digits",
    ),
    "deep.jsonl": (
        b'{"input": ' + b"[" * 200_000 + b"\n",
        "line 1: cannot be read .nested too deeply",
    ),
    "closed.jsonl": (
        b'{"input": ' + b"[" * 100 + b"]" * 100 + b"}\n",
        "line 1: cannot be read .nested too deeply",
    ),
    "digits.json": (
        b'[{"input": ' + b"1" * 5000 + b"}]",
        "cannot be read .a number of more than 4,300 digits",
    ),
    "deep.json": (b"[" * 200_000, "cannot be read .nested too deeply"),
    "twice.jsonl": (b'{"input": "a", "input": "b"}\n', "line 1: .*the key 'input' stands twice"),
    "within.json": (b'[{"input": {"a": 1, "a": 2}}]', "the key 'a' stands twice"),
    "rows.xlsx": (b"PK", r"must end in one of \.csv, \.tsv"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_said_with_its_line(tmp_path: Path, name: str) -> None:
    content, said = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        list(tables.open_table(tmp_path / name))
    assert name in str(caught.value)


def damaged_arrow(offset: int) -> bytes:
    """An Arrow stream of two rows in which the end of the last answer is at `offset`, and not at
    2."""
    table = pyarrow.table({"question": ["q0", "q1"], "answer": ["a", "b"]})
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = bytearray(sink.getvalue())
    place = content.rindex(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]))
    content[place + 8 : place + 12] = offset.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("offset", [5, 0x40, 0x7FFFFFF0])
def test_an_arrow_file_that_points_out_of_its_column_is_not_read(
    tmp_path: Path, offset: int
) -> None:
    (tmp_path / "whole.arrow").write_bytes(damaged_arrow(2))
    assert [row["answer"] for _, row in tables.open_table(tmp_path / "whole.arrow")] == ["a", "b"]
    (tmp_path / "bad.arrow").write_bytes(damaged_arrow(offset))
    with pytest.raises(
        UserError, match=r"bad\.arrow: no whole Arrow file .*Offset invariant failure"
    ):
        list(tables.open_table(tmp_path / "bad.arrow"))


def test_a_damaged_saved_set_is_not_mapped(tmp_path: Path) -> None:
    saved = tmp_path / "set"
    datasets.Dataset.from_list([{"answer": "a"}, {"answer": "b"}]).save_to_disk(saved)
    assert len(list(tables.open_table(saved))) == 2
    (saved / "data-00000-of-00001.arrow").write_bytes(damaged_arrow(0x7FFFFFF0))
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow: no whole Arrow file"):
        tables.open_table(saved)
    state = json.loads((saved / "state.json").read_text())
    state["_data_files"] = [{"filename": "../other.arrow"}]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="only a file of the same folder"):
        tables.open_table(saved)


@pytest.mark.parametrize("source", [{}, {"a": {"b": [1]}}, {"path": 5}, {"path": None}])
def test_a_set_without_a_path_is_refused(source: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="rows are named by `path`"):
        tables.open_table(source)


def test_columns_of_one_name_are_refused_in_every_format(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["a"]), pyarrow.array(["b"])], names=["input", "input"]
    )
    pyarrow.parquet.write_table(table, tmp_path / "two.parquet")
    with pyarrow.ipc.new_file(tmp_path / "two.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("two.parquet", "two.arrow"):
        with pytest.raises(UserError, match="names the columns 'input' twice"):
            tables.open_table(tmp_path / name)


def test_a_date_that_python_does_not_have_is_named_with_its_column(tmp_path: Path) -> None:
    table = pyarrow.table({"input": ["a"], "when": pyarrow.array([2**50], pyarrow.timestamp("s"))})
    pyarrow.parquet.write_table(table, tmp_path / "far.parquet")
    with pytest.raises(
        UserError, match=r"far\.parquet: the column 'when' holds what cannot be read"
    ):
        tables.open_table(tmp_path / "far.parquet")


def test_a_file_torn_in_the_middle(tmp_path: Path) -> None:
    rows = [{"input": str(i)} for i in range(1000)]
    for name in ("rows.parquet", "stream.arrow", "rows.arrow"):
        file = write(tmp_path / name, rows)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(UserError, match="no whole"):
            list(tables.open_table(file))


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a\nb\n")
    with pytest.raises(
        UserError, match=r"tran\.csv: there is no such file; did you mean .*train\.csv"
    ):
        tables.open_table(tmp_path / "tran.csv")
    with pytest.raises(UserError, match="no such file, and no folder"):
        tables.open_table(tmp_path / "x" / "train.csv")
    with pytest.raises(UserError, match="there is no such file"):
        tables.open_table("train_of_mine.csv")
    with pytest.raises(UserError, match="cannot load the rows"):
        tables.open_table("nobody/nothing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"no \.csv, \.tsv.* file is in this folder"):
        tables.open_table(tmp_path / "bare")
    (tmp_path / "test.csv").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"several splits .test\.csv, train\.csv.; name one file"):
        tables.open_table(tmp_path)
    (tmp_path / "more.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds \.csv and \.txt files"):
        tables.open_table(tmp_path)


def test_cells(tmp_path: Path) -> None:
    row = {
        "input": "x",
        "empty": " \n",
        "nan": float("nan"),
        "null": None,
        "n": 5,
        "list": ["a"],
        "half": "\ud800",
    }
    assert [read_text(row, name, "f, line 2") for name in ("input", "empty", "nan", "null")] == [
        "x",
        "",
        "",
        "",
    ]
    for name, said in {
        "n": r"f, line 2: the column 'n' holds a number \(5\) where text is expected",
        "list": r"holds a list",
        "half": "half a character",
        "imput": "f, line 2: no column 'imput'; its columns: input, .*; did you mean input",
    }.items():
        with pytest.raises(UserError, match=said):
            read_text(row, name, "f, line 2")
    (tmp_path / "rows.csv").write_text("Input,output\na,b\n")
    with pytest.raises(
        UserError,
        match=r"rows.csv: no column 'input'; its columns: Input, output; did you mean Input\?",
    ):
        tables.open_table(tmp_path / "rows.csv").require_column("input")


def test_a_set_and_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`owner/name:split` is that split of a set of the hub, unless it is a path here."""
    import datasets

    asked: list[dict[str, Any]] = []

    def load(**given: Any) -> Any:
        asked.append(given)
        if given["split"] == "tset":
            raise ValueError("Unknown split \"tset\". Should be one of ['train', 'test'].")
        return datasets.Dataset.from_list([{"input": "a", "output": "b"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    for source, split in (
        ("owner/name", "train"),
        ("owner/name:test", "test"),
        ("name:train[:10%]+test", "train[:10%]+test"),
    ):
        table = tables.open_table(source)
        assert asked[-1] == {"path": source.partition(":")[0], "split": split}
        assert [row for _, row in table] == [{"input": "a", "output": "b"}]
    with pytest.raises(
        UserError,
        match=r"owner/name: no split 'tset'; its splits: train, test; did you mean "
        r"owner/name:test\?",
    ):
        tables.open_table("owner/name:tset")
    (tmp_path / "owner").mkdir()
    dist = write(tmp_path / "owner" / "name:test.csv", [{"input": "c", "output": "d"}])
    assert tables.open_table("owner/name:test.csv").files == (Path("owner/name:test.csv"),), dist


def test_a_folder_with_several_splits(tmp_path: Path) -> None:
    import datasets

    splits = {
        name: datasets.Dataset.from_list([{"input": name, "output": "b"}])
        for name in ("train", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    table = tables.open_table(f"{tmp_path}/saved:test")
    assert [row for _, row in table] == [{"input": "test", "output": "b"}]
    with pytest.raises(
        UserError, match=r"saved has several splits \(train, test\): name one, as in .*saved:train"
    ):
        tables.open_table(tmp_path / "saved")
    with pytest.raises(UserError, match=r"no split 'validation'; its splits: train, test"):
        tables.open_table(f"{tmp_path}/saved:validation")


def test_columns_are_those_of_the_first_rows(tmp_path: Path) -> None:
    (file := tmp_path / "rows.jsonl").write_text(
        '{"a": 1}\n{"a": 2, "b": "word"}\n{"c": {"d": ["word"]}}\n'
    )
    table = tables.open_table(file)
    assert (table.columns, table.worded) == (("a", "b", "c"), ("b", "c"))
    numbers = write(tmp_path / "rows.csv", [{"a": "1e-5", "b": "-3.5", "c": "true", "d": "x1"}])
    assert tables.open_table(numbers).worded == ("d",)
