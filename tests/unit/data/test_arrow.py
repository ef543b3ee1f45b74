"""Rows of typed tables are those of JSON lines: no invented nulls in calls and tools, no harm from unused columns."""

import datetime
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from degenerate import GOOD, fault, write_lines

from cot_components.data.bad_rows import DropReport, TraceError
from cot_components.data.read.arrow import data_set_rows
from cot_components.data.read.traces import Trace, read_traces

USER = {"role": "user", "content": "q"}


def called(**turn: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": None, **turn}]}


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


ROWS = {
    "tool_calls": [
        called(tool_calls=[call("weather", city="Rom", days=[1, None])]),
        called(tool_calls=[call("pay", who="Ann", parts=[{"num": 3}, {"note": "x"}]), call("stop")]),
        called(content="Done."),
    ],
    "other shapes of calls": [
        called(function_call=call("weather", city="Rom")),
        called(tool_calls=[{"type": "function", "function": call("pay", who="Ann", to={"bank": "b"})}]),
        called(tool_calls=[{"name": "move", "parameters": {"who": "Bo", "to": {"seat": 4}}}]),
    ],
    "arguments as text": [
        called(tool_calls=[{"function": {"name": "pay", "arguments": '{"who": null, "num": 3}'}}]),
        called(tool_calls=[{"function": {"name": "stop", "arguments": ""}}]),
    ],
    "tools": [
        {**called(content="a"), "tools": [tool("weather", city={"type": "string"})]},
        {**called(content="a"), "tools": [tool("pay", who={"type": "string", "enum": ["x", None]}), tool("stop")]},
        {**called(content="a"), "tools": None},
    ],
    "xlam": [
        {"query": "q", "tools": [tool("weather", city={"type": "string"})], "answers": [call("weather", city="Rom")]},
        {"query": "q", "tools": [tool("pay", num={"type": "int"})], "answers": [call("pay", num=3), call("stop")]},
    ],
}


def read_parquet(rows: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    return list(read_traces(folder / "x.parquet"))


def read_data_set(rows: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    found = datasets.Dataset(pa.Table.from_pylist(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: found)
    return list(read_traces("somebody/data"))


@pytest.mark.parametrize("read", [read_parquet, read_data_set])
@pytest.mark.parametrize("name", ROWS)
def test_a_typed_table_has_the_rows_of_json_lines(name, read, tmp_path, monkeypatch):
    rows = ROWS[name]
    assert pa.Table.from_pylist(rows).to_pylist() != rows, "the table must have invented nulls"
    lines = list(read_traces(write_lines(tmp_path / "x.jsonl", *rows)))
    typed = read(rows, tmp_path, monkeypatch)
    assert [(t.id, t.messages, t.answer) for t in typed] == [(t.id, t.messages, t.answer) for t in lines]
    assert len(typed) == len(rows)


def test_a_null_that_json_holds_stays(tmp_path):
    rows = [{**called(tool_calls=[call("pay", who=None)]), "tools": [tool("pay", who=None)]}]
    (trace,) = read_traces(write_lines(tmp_path / "x.jsonl", *rows))
    assert '{"who": null}' in trace.messages[0].content and '{"who": null}' in trace.messages[-1].content


BAD_TEXT = pa.StringArray.from_buffers(2, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xffa"))
FAR_DATE = pa.array([2**60, 0], pa.timestamp("us"))


@pytest.mark.parametrize("values", [BAD_TEXT, FAR_DATE], ids=["text", "date"])
def test_a_column_that_cannot_be_read_matters_only_where_it_is_used(values, tmp_path):
    path, report = tmp_path / "x.parquet", DropReport()
    pq.write_table(pa.table({"extra": values, "instruction": ["q", "q"], "response": ["a", "a"]}), path)
    assert len(list(read_traces(path))) == 2
    used = {"format": "instruction", "columns": {"system": "extra"}}
    assert fault(path, **used).startswith(f"{path}:1: 'extra' cannot be read (")
    list(read_traces(path, strict=False, report=report, **used))
    assert report.dropped["'extra' cannot be read"] == [f"{path}:1"] and report.read == 2
    pq.write_table(pa.table({"extra": values, "other": ["q", "q"]}), path)
    assert fault(path).startswith(f"{path}:1: the columns fit no known format (columns: extra, other; dataset.columns")


def test_what_json_cannot_write_is_a_fault_of_its_row(tmp_path):
    path, day = tmp_path / "x.parquet", datetime.datetime(2020, 1, 1)
    for value in (day, b"x", float("nan")):
        for row, what in (
            (called(tool_calls=[call("pay", when=value)]), "a tool call"),
            ({**called(content="a"), "tools": [tool("pay", when=value)]}, "a tool"),
        ):
            pq.write_table(pa.Table.from_pylist([row]), path)
            assert fault(path).startswith(f"{path}:1: {what} cannot be written as JSON (")


def test_a_data_set_that_cannot_be_read_is_named():
    def broken():
        yield GOOD
        json.loads(b'"\xff"')

    rows = data_set_rows("some/data/train", broken())
    assert next(rows) == ("some/data/train:1", GOOD)
    with pytest.raises(TraceError, match=r"^some/data/train: the data set cannot be read "):
        next(rows)
