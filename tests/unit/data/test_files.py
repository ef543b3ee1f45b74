"""Files of every kind that people publish: JSON of every shape, packed files, tables; what is broken has its place."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from degenerate import GOOD, HOSTILE, fault, write_lines
from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Trace, read_traces
from cot_components.errors import UserError

CELLS = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


def prompts(*args: Any, **settings: Any) -> list[tuple[str, str]]:
    """Line and prompt of each row."""
    return [(t.where.rpartition(":")[2], t.messages[0].content) for t in read_traces(*args, **settings)]


def asked(name: str) -> dict[str, Any]:
    return GOOD | {"instruction": name}


ONE, TWO = asked("1"), asked("2")
PRETTY = json.dumps(ONE, indent=2)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PRETTY, [("1", "1")]),
        (json.dumps(ONE), [("1", "1")]),
        (f"\n\n{PRETTY}\n{PRETTY} {PRETTY}", [("3", "1"), ("7", "1"), ("10", "1")]),
        (json.dumps({"data": [ONE, TWO]}), [("1", "1"), ("1", "2")]),
        (json.dumps({'any "key': [ONE, TWO]}, indent=1), [("3", "1"), ("7", "2")]),
        ('{"data": [\n' + json.dumps(ONE) + "\n]}\n", [("2", "1")]),
        ('{"data": [\n' + json.dumps(ONE) + ",\n" + json.dumps(TWO) + "\n]\n}", [("2", "1"), ("3", "2")]),
        (json.dumps(ONE) + "\n" + json.dumps(TWO), [("1", "1"), ("2", "2")]),
    ],
)
def test_json_of_every_shape_has_its_rows_and_lines(text, found, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert prompts(path) == found
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert prompts(path) == found


def test_an_object_whose_only_list_is_of_turns_is_itself_a_row(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for name, indent in (("messages", None), ("messages", 1), ("conversations", 2)):
        (tmp_path / "x.json").write_text(json.dumps({name: turns}, indent=indent))
        assert prompts(tmp_path / "x.json") == [("1", "q")]
    (tmp_path / "x.json").write_text(json.dumps({"conversations": [{"messages": turns}] * 2}))
    assert prompts(tmp_path / "x.json") == [("1", "q"), ("1", "q")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{\n"instruction": "q",\n"resp', "1: the JSON is broken here"),
        ('{"instruction": "q", "resp', "1: not JSON: the file ends within the line"),
        (json.dumps(ONE, indent=1) + '\n{"a', "5: the JSON is broken here"),
        (json.dumps({"data": [ONE], "version": 1}), "1: the columns fit no known format"),
        (json.dumps({"data": []}), "1: the columns fit no known format"),
        (json.dumps({"data": [ONE, None]}, indent=1), "7: a row is not an object"),
        ('{"data": [{"instruction": "q", "response": "a", "response": "b"}]}', "1: a key stands twice"),
    ],
)
def test_json_that_is_not_certain_is_refused_with_its_line(text, reason, tmp_path):
    (tmp_path / "x.json").write_text(text)
    assert fault(tmp_path / "x.json").startswith(f"{tmp_path / 'x.json'}:{reason}")


def test_a_broken_first_line_costs_one_row(tmp_path):
    path, report = write_lines(tmp_path / "x.json", b'{"instruc', ONE, TWO), DropReport()
    assert [t.id for t in read_traces(path, strict=False, report=report)] == [1, 2]
    assert report.dropped == {"not JSON": [f"{path}:1"]}


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("'response'", b'{"instruction": "q", "response": "a", "response": "a"}'),
        ("'k'", b'{"x": [{"k": 1, "k": 2}], "instruction": "q", "response": "a"}'),
    ],
)
def test_a_key_twice_is_refused_wherever_it_stands(key, line, tmp_path):
    reason = "a key stands twice in an object"
    path = write_lines(tmp_path / "x.jsonl", GOOD, line, GOOD)
    assert fault(path) == f"{path}:2: {reason} ({key})"
    (tmp_path / "x.json").write_bytes(b"[" + line + b",\n" + line + b"," + json.dumps(GOOD).encode() + b"]")
    report = DropReport()
    assert [t.id for t in read_traces(tmp_path / "x.json", strict=False, report=report)] == [2]
    assert report.dropped == {reason: [f"{tmp_path / 'x.json'}:1", f"{tmp_path / 'x.json'}:2"]}


@pytest.mark.parametrize("depth", [200, 600, 3000])
def test_rows_nested_deeply_are_refused(depth, tmp_path):
    turns = json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
    deep = f'{{"messages": {turns}, "tools": {"[" * depth + "]" * depth}}}'
    path = write_lines(tmp_path / "x.jsonl", deep.encode(), {"messages": json.loads(turns)})
    report = DropReport()
    assert [trace.id for trace in read_traces(path, strict=False, report=report)] == [1]
    reasons = {
        200: "a tool is not an object",
        600: "nested too deeply to be read",
        3000: "JSON beyond what can be read",
    }
    assert report.dropped == {reasons[depth]: [f"{path}:1"]} and fault(path).startswith(f"{path}:1: {reasons[depth]}")


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_have_the_rows_of_plain_ones(ending, tmp_path):
    plain = {
        "x.jsonl": json.dumps(ONE) + "\n\n" + json.dumps(TWO),
        "x.json": json.dumps([ONE, TWO], indent=1),
        "x.txt": "q||c #### 1\n",
        "x.csv": "prompt,completion\nq,a\n",
    }
    for name, text in plain.items():
        path, packed = tmp_path / name, tmp_path / f"{name}{ending}"
        path.write_text(text)
        packed.write_bytes(PACKERS[ending](text.encode()))
        traces = [(t.id, t.messages, f"{packed}{t.where.removeprefix(str(path))}") for t in read_traces(path)]
        assert traces and [(t.id, t.messages, t.where) for t in read_traces(packed)] == traces


@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_file_that_is_broken_is_named(ending, tmp_path):
    path, text = tmp_path / f"x.jsonl{ending}", "".join(json.dumps(asked(str(i))) + "\n" for i in range(2000))
    path.write_bytes(PACKERS[ending](text.encode())[:-20])
    assert fault(path, strict=False).startswith(f"{path}: ")
    path.write_text(text)
    assert fault(path, strict=False).startswith(f"{path}: ")
    with pytest.raises(UserError, match=r"unknown kind of file"):
        (tmp_path / f"x.parquet{ending}").write_bytes(b"")
        read_traces(tmp_path / f"x.parquet{ending}")


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), st.sampled_from([("x.csv", ","), ("x.tsv", "\t")]))
def test_any_text_survives_a_table(tmp_path_factory, rows, kind):
    path = tmp_path_factory.getbasetemp() / kind[0]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=kind[1], quoting=csv.QUOTE_ALL).writerows([("instruction", "response"), *rows])
    assert [(t.messages[0].content, t.messages[1].content) for t in read_traces(path)] == rows


def test_rows_of_a_table_know_their_line_and_empty_cells_are_null(tmp_path):
    path, report = tmp_path / "x.csv", DropReport()
    long = "y" * 200_000
    path.write_bytes(
        b"\xef\xbb\xbfinstruction,input,output,answer,thought\r\n"
        b'"a ""quoted"", word",,"two\r\nlines",5,\r\n'
        b"\r\n"
        b"only,three,cells\r\n"
        b"\xff,,a,,\r\n" + f"q,i,{long},,t\r\n".encode() + b"q,,,,\r\n"
    )
    first, last = read_traces(path, strict=False, report=report)
    assert (first.id, first.where, first.answer) == (0, f"{path}:2", "5")
    assert [(m.content, m.thought) for m in first.messages] == [('a "quoted", word', None), ("two\r\nlines", None)]
    assert (last.id, last.where, last.answer) == (3, f"{path}:7", None)
    assert [(m.content, m.thought) for m in last.messages] == [("q\n\ni", None), (long, "t")]
    assert report.dropped == {
        "not as many cells as the table has columns": [f"{path}:5"],
        "not UTF-8": [f"{path}:6"],
        "'output' is null": [f"{path}:8"],
    }


def test_a_table_may_hold_turns_as_json(tmp_path):
    turns = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["messages", "n"], [json.dumps(turns), 1], [str(turns), 2]])
    report = DropReport()
    (trace,) = read_traces(path, strict=False, report=report)
    assert [m.content for m in trace.messages] == [HOSTILE, "a"]
    assert report.dropped == {"'messages' is not JSON": [f"{path}:3"]}


def test_a_broken_table_is_an_error_even_when_lenient(tmp_path):
    path = tmp_path / "x.csv"
    for text, where, reason in [
        ('prompt,completion\nq,a\nq,"never closed\n', f"{path}:3", "the table is broken here"),
        ('prompt,completion\n"q" x,a\n', f"{path}:2", "the table is broken here"),
        ("prompt,completion,prompt\nq,a,p\n", f"{path}:1", "two columns have one name ('prompt')"),
        ("prompt,compl\u00e9tion\nq,a\n".encode("utf-16"), f"{path}:1", "not UTF-8"),
        ("prompt,completion\n", str(path), "there are no rows"),
        ("", str(path), "there are no rows"),
    ]:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        assert fault(path, strict=False).startswith(f"{where}: {reason}")


def test_a_column_twice_in_parquet_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    columns = [pa.array(["q"]), pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["instruction", "response", "response"]), path)
    assert fault(path, strict=False) == f"{path}: two columns have one name ('response')"


def test_a_field_twice_inside_a_column_of_parquet_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    fields = [pa.array(["user"]), pa.array(["q"]), pa.array(["r"])]
    turn = pa.StructArray.from_arrays(fields, names=["role", "content", "content"])
    messages = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), turn)
    pq.write_table(pa.Table.from_arrays([messages], names=["messages"]), path)
    assert fault(path).startswith(f"{path}:1: 'messages' cannot be read (")


def test_traces_of_a_file_in_capitals(tmp_path):
    path = write_lines(tmp_path / "X.JSONL", GOOD)
    (trace,) = read_traces(path)
    assert isinstance(trace, Trace) and trace.where == f"{path}:1"
