"""Rows of typed tables are those of JSON lines: no invented nulls in calls and tools, no harm from unused columns."""

import datetime
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from degenerate import GOOD, HOSTILE, fault, write_lines

from cot_components.data.bad_rows import DropReport, TraceError
from cot_components.data.read.arrow import data_set_rows
from cot_components.data.read.traces import Message, Trace, read_traces

USER = {"role": "user", "content": "q"}


def called(*calls, **turn):
    beside = {"tool_calls": list(calls)} if calls else {}
    return {"messages": [USER, {"role": "assistant", "content": None, **beside, **turn}]}


def tool(name, **parameters):
    return {"name": name, "parameters": parameters}


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


WHERE = {"city": {"type": "string"}}
ROWS = {
    "tool_calls": [
        called(call("weather", city="Rom", days=[1, None])),
        called(call("pay", who="Ann", parts=[{"num": 3}, {"note": "x"}]), call("stop")),
        called(content="Done."),
    ],
    "other shapes of calls": [
        called(function_call=call("weather", city="Rom")),
        called({"type": "function", "function": call("pay", who="Ann", to={"bank": "b"})}),
        called({"name": "move", "parameters": {"who": "Bo", "to": {"seat": 4}}}),
    ],
    "arguments as text": [
        called({"function": {"name": "pay", "arguments": '{"who": null, "num": 3}'}}),
        called({"function": {"name": "stop", "arguments": ""}}),
    ],
    "tools": [
        called(content="a") | {"tools": [tool("weather", **WHERE)]},
        called(content="a") | {"tools": [tool("pay", who={"type": "string", "enum": ["x", None]}), tool("stop")]},
        called(content="a") | {"tools": None},
    ],
    "xlam": [
        {"query": "q", "tools": [tool("weather", **WHERE)], "answers": [call("weather", city="Rom")]},
        {"query": "q", "tools": [tool("pay", num={"type": "int"})], "answers": [call("pay", num=3), call("stop")]},
    ],
}


def parquet(rows, folder, monkeypatch):
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    return folder / "x.parquet"


def hub(rows, folder, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset(pa.Table.from_pylist(rows)))
    return "user/data"


def saved(rows, folder, monkeypatch):
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("lay", [parquet, hub, saved])
@pytest.mark.parametrize("name", ROWS)
def test_a_typed_table_has_the_rows_of_json_lines(name, lay, tmp_path, monkeypatch):
    rows = ROWS[name]
    assert pa.Table.from_pylist(rows).to_pylist() != rows, "the table must have invented nulls"
    lines = list(read_traces(write_lines(tmp_path / "x.jsonl", *rows)))
    typed = list(read_traces(lay(rows, tmp_path, monkeypatch)))
    assert [(t.id, t.messages, t.answer) for t in typed] == [(t.id, t.messages, t.answer) for t in lines]
    assert len(typed) == len(rows)


def test_a_null_that_json_holds_stays(tmp_path):
    row = called(call("pay", who=None)) | {"tools": [tool("pay", who=None)]}
    (trace,) = read_traces(write_lines(tmp_path / "x.jsonl", row))
    assert '{"who": null}' in trace.messages[0].content and '{"who": null}' in trace.messages[-1].content


def test_a_parquet_null_is_a_null(tmp_path):
    turns = [USER | {"content": HOSTILE}, {"role": "assistant", "content": "a", "reasoning_content": "t"}]
    nulls = [{"messages": None}, {"messages": [USER | {"content": None}, turns[1]]}]
    path, report = parquet([{"messages": turns, "answer": "5"}, *nulls], tmp_path, None), DropReport()
    (trace,) = read_traces(path, strict=False, report=report)
    assert trace == Trace(0, (Message("user", HOSTILE), Message("assistant", "a", thought="t")), f"{path}:1", "5")
    null = "'content' of the user's turn is null"
    assert report.dropped == {"'messages' is null": [f"{path}:2"], null: [f"{path}:3"]}
    path.write_bytes(path.read_bytes()[:-9])
    assert "not a readable Parquet file" in fault(path, strict=False)


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
    assert fault(path).startswith(f"{path}:1: the columns fit no known format (columns: extra, other; set ")


@pytest.mark.parametrize("value", [datetime.datetime(2020, 1, 1), b"x", float("nan")])
def test_what_json_cannot_write_is_a_fault_of_its_row(value, tmp_path):
    calls = called(call("pay", when=value))
    tools = called(content="a") | {"tools": [tool("pay", when=value)]}
    for row, what in ((calls, "a tool call"), (tools, "a tool")):
        path = parquet([row], tmp_path, None)
        assert fault(path).startswith(f"{path}:1: {what} cannot be written as JSON (")


def test_a_column_or_a_field_twice_is_refused(tmp_path):
    path, names = tmp_path / "x.parquet", ["instruction", "response", "response"]
    pq.write_table(pa.Table.from_arrays([pa.array(["q"]), pa.array(["a"]), pa.array(["b"])], names=names), path)
    assert fault(path, strict=False) == f"{path}: two columns have the same name ('response')"
    fields = [pa.array(["user"]), pa.array(["q"]), pa.array(["r"])]
    turn = pa.StructArray.from_arrays(fields, names=["role", "content", "content"])
    messages = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), turn)
    pq.write_table(pa.Table.from_arrays([messages], names=["messages"]), path)
    assert fault(path).startswith(f"{path}:1: 'messages' cannot be read (")


def test_a_data_set_that_cannot_be_read_is_named():
    def broken():
        yield GOOD
        json.loads(b'"\xff"')

    rows = data_set_rows("some/data/train", broken())
    assert next(rows) == ("some/data/train:1", GOOD)
    with pytest.raises(TraceError, match=r"^some/data/train: the data set cannot be read "):
        next(rows)
