"""Files of every kind that people publish: JSON of every shape, packed files, tables; what is broken has its place."""

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path

import pytest
from degenerate import GOOD, HOSTILE, fault, refuse_to_open, write_lines
from hypothesis import given
from hypothesis import strategies as st
from reading import prompts

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Message, read_traces
from cot_components.errors import UserError

TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ONE, TWO = (GOOD | {"instruction": name} for name in "12")
PRETTY, LINE, OTHER_LINE = json.dumps(ONE, indent=2), json.dumps(ONE), json.dumps(TWO)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PRETTY, "1:1"),
        (LINE, "1:1"),
        (f"\n\n{PRETTY}\n{PRETTY} {PRETTY}", "3:1 7:1 10:1"),
        (json.dumps([ONE, TWO]), "1:1 1:2"),
        (json.dumps({"data": [ONE, TWO]}), "1:1 1:2"),
        (json.dumps({'any "key': [ONE, TWO]}, indent=1), "3:1 7:2"),
        (f'{{"data": [\n{LINE}\n]}}\n', "2:1"),
        (f'{{"data": [\n{LINE},\n{OTHER_LINE}\n]\n}}', "2:1 3:2"),
        (f"\n{LINE}\n{OTHER_LINE}", "2:1 3:2"),
    ],
)
def test_json_of_every_shape_has_its_rows_and_lines(text, found, tmp_path):
    path = tmp_path / "x.json"
    for content in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode()):
        path.write_bytes(content)
        assert prompts(path) == [(f"x.json:{row[:-2]}", row[-1]) for row in found.split()]


@pytest.mark.parametrize(
    ("value", "rows"),
    [({"messages": TURNS}, 1), ({"conversations": TURNS}, 1), ({"conversations": [{"messages": TURNS}] * 2}, 2)],
)
def test_an_object_whose_only_list_is_of_turns_is_itself_a_row(value, rows, tmp_path):
    for indent in (None, 1) if rows == 1 else (None,):
        (tmp_path / "x.json").write_text(json.dumps(value, indent=indent))
        assert prompts(tmp_path / "x.json") == [("x.json:1", "q")] * rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{\n"instruction": "q",\n"resp', "1: the JSON is broken here"),
        ('{"instruction": "q", "resp', "1: not JSON: the file ends within the line"),
        (json.dumps(ONE, indent=1) + '\n{"a', "5: the JSON is broken here"),
        (json.dumps({"data": [ONE], "version": 1}), "1: the columns fit no known format"),
        (json.dumps({"data": []}), "1: the columns fit no known format"),
        (json.dumps({"data": [ONE, None]}, indent=1), "7: a row is not an object"),
        ('{"data": [{"instruction": "q", "response": "a", "response": "b"}]}', "1: an object has a key twice"),
    ],
)
def test_json_that_is_not_certain_is_refused_with_its_line(text, reason, tmp_path):
    (tmp_path / "x.json").write_text(text)
    assert fault(tmp_path / "x.json").startswith(f"{tmp_path / 'x.json'}:{reason}")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (f"[\n{LINE},\n" + '{"instr', 3, "the JSON is broken here"),
        (f"[\n{LINE},\n]", 3, "the JSON is broken here"),
        (f"[\n{LINE}\n{{}}]", 2, "the list is broken after this row"),
        ('[\n{"instruction": "q",\n"response": "a"}', 3, "the list is broken after this row"),
        (f"[{LINE}]\n[]", 1, "text after the end of the list"),
        (f"[{LINE}, " + "[" * 100_000, 1, "the JSON is broken here"),
        ("[,", 1, "the JSON is broken here"),
        ("[", 1, "the JSON is broken here"),
        (f"[\n{LINE},\n".encode() + b'"\xff"]', 3, "not UTF-8"),
    ],
)
def test_a_broken_list_is_an_error_even_when_lenient(text, line, reason, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert fault(path, strict=False).startswith(f"{path}:{line}: {reason}")


@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["", "\n", " \r\n\t\n"]), st.sampled_from([None, 1])), min_size=1),
    st.sampled_from(["", "\n", "\n\n "]),
)
def test_rows_of_a_list_know_their_line(tmp_path_factory, rows, around):
    """The text is put together piece by piece, counting lines on the way."""
    path, text, wanted = tmp_path_factory.getbasetemp() / "list.json", f"{around}[", []
    for i, (response, gap, indent) in enumerate(rows):
        text += gap
        wanted.append((i, f"{path}:{1 + text.count(chr(10))}", response))
        text += json.dumps(GOOD | {"response": response}, indent=indent, ensure_ascii=False)
        text += gap + ("," if i + 1 < len(rows) else "]")
    path.write_bytes((text + around).encode())
    assert [(t.id, t.where, t.messages[1].content) for t in read_traces(path)] == wanted


def test_rows_of_a_list_are_refused_one_by_one(tmp_path):
    path, report = tmp_path / "x.json", DropReport()
    bad = [["q"], GOOD | {"score": float("nan")}, GOOD | {"response": None}]
    path.write_text(json.dumps([GOOD, *bad, GOOD], indent=0))
    assert [trace.id for trace in read_traces(path, strict=False, report=report)] == [0, 4]
    assert list(report.dropped) == ["a row is not an object", "NaN is not JSON", "'response' is null"]


def test_text_lines_keep_odd_separators(tmp_path):
    path, report = tmp_path / "x.txt", DropReport()
    path.write_bytes("\ufeffq\u2028r||c\u0085d #### 1\r\n\n|| #### 2\nq|| #### 3".encode())
    first, last = read_traces(path, strict=False, report=report)
    assert first.messages == (Message("user", "q\u2028r"), Message("assistant", "#### 1", thought="c\u0085d"))
    assert (last.id, last.where, last.answer, last.messages[1].thought) == (2, f"{path}:4", "3", "")
    assert report.dropped == {"the prompt is empty": [f"{path}:3"]}


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
    reason, report = "an object has a key twice", DropReport()
    lines, listed = write_lines(tmp_path / "x.jsonl", GOOD, line, GOOD), tmp_path / "x.json"
    assert fault(lines) == f"{lines}:2: {reason} ({key})"
    listed.write_bytes(b"[" + line + b",\n" + line + b"," + json.dumps(GOOD).encode() + b"]")
    assert [t.id for t in read_traces(listed, strict=False, report=report)] == [2]
    assert report.dropped == {reason: [f"{listed}:1", f"{listed}:2"]}


@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        (200, "a tool is not an object"),
        (600, "nested too deeply to be read"),
        (3000, "JSON too large or too deeply nested"),
    ],
)
def test_rows_nested_deeply_are_refused(depth, reason, tmp_path):
    deep, report = f'{{"messages": {json.dumps(TURNS)}, "tools": {"[" * depth + "]" * depth}}}', DropReport()
    path = write_lines(tmp_path / "x.jsonl", deep.encode(), {"messages": TURNS})
    assert [trace.id for trace in read_traces(path, strict=False, report=report)] == [1]
    assert report.dropped == {reason: [f"{path}:1"]} and fault(path).startswith(f"{path}:1: {reason}")


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PLAIN = {
    "x.jsonl": f"{LINE}\n\n{OTHER_LINE}",
    "x.json": json.dumps([ONE, TWO], indent=1),
    "x.txt": "q||c #### 1\n",
    "x.csv": "prompt,completion\nq,a\n",
}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", PLAIN)
def test_packed_files_have_the_rows_of_plain_ones(name, ending, tmp_path):
    path, packed = tmp_path / name, tmp_path / f"{name}{ending}"
    path.write_text(PLAIN[name])
    packed.write_bytes(PACKERS[ending](PLAIN[name].encode()))
    traces = [(t.id, t.messages, f"{packed}{t.where.removeprefix(str(path))}") for t in read_traces(path)]
    assert traces and [(t.id, t.messages, t.where) for t in read_traces(packed)] == traces


@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_file_that_is_broken_is_named(ending, tmp_path):
    path, text = tmp_path / f"x.jsonl{ending}", "".join(json.dumps({**GOOD, "n": i}) + "\n" for i in range(2000))
    for content in (PACKERS[ending](text.encode())[:-20], text.encode()):
        path.write_bytes(content)
        assert fault(path, strict=False).startswith(f"{path}: ")
    (tmp_path / f"x.parquet{ending}").write_bytes(b"")
    with pytest.raises(UserError, match=r"unknown kind of file"):
        read_traces(tmp_path / f"x.parquet{ending}")


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4),
    st.sampled_from([("x.csv", ","), ("x.tsv", "\t"), ("x.jsonl", "\n"), ("x.jsonl", "\r\n"), ("x.jsonl", "\n\n \n")]),
    st.booleans(),
)
def test_any_text_survives(tmp_path_factory, rows, kind, escaped):
    (name, separator), names = kind, ("instruction", "response")
    path = tmp_path_factory.getbasetemp() / name
    with path.open("w", newline="", encoding="utf-8") as file:
        if name == "x.jsonl":
            objects = (dict(zip(names, row, strict=True)) for row in rows)
            file.writelines(json.dumps(row, ensure_ascii=escaped) + separator for row in objects)
        else:
            csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    found = [(t.id, (t.messages[0].content, t.messages[1].content)) for t in read_traces(path)]
    assert found == list(enumerate(rows))


def test_rows_of_a_table_know_their_line_and_empty_cells_are_null(tmp_path):
    path, report, long = tmp_path / "x.csv", DropReport(), "y" * 200_000
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
    cells = "not as many cells as the table has columns"
    assert report.dropped == {cells: [f"{path}:5"], "not UTF-8": [f"{path}:6"], "'output' is null": [f"{path}:8"]}


def test_a_table_may_hold_turns_as_json(tmp_path):
    turns, report = [TURNS[0] | {"content": HOSTILE}, TURNS[1]], DropReport()
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["messages", "n"], [json.dumps(turns), 1], [str(turns), 2]])
    (trace,) = read_traces(path, strict=False, report=report)
    assert [m.content for m in trace.messages] == [HOSTILE, "a"]
    assert report.dropped == {"'messages' is not JSON": [f"{path}:3"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('prompt,completion\nq,a\nq,"never closed\n', ":3: the table is broken here"),
        ('prompt,completion\n"q" x,a\n', ":2: the table is broken here"),
        ("prompt,completion,prompt\nq,a,p\n", ":1: two columns have the same name ('prompt')"),
        ("prompt,compl\u00e9tion\nq,a\n".encode("utf-16"), ":1: not UTF-8"),
        ("prompt,completion\n", ": there are no rows"),
        ("", ": there are no rows"),
    ],
)
def test_a_broken_table_is_an_error_even_when_lenient(text, reason, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert fault(path, strict=False).startswith(f"{path}{reason}")


@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_a_file_without_permission_is_named(kind, tmp_path, monkeypatch):
    path = tmp_path / f"x.{kind}"
    path.write_text("[]")
    monkeypatch.setattr(Path, "open", refuse_to_open)
    assert fault(path, strict=False) == f"{path}: cannot be read (Permission denied)"
