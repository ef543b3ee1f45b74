"""Reading: the shared data sets, the table of faults, places, and the report."""

import json
from collections import Counter

import pytest
from degenerate import FAULTY_LINES, GOOD, fault, write_lines
from hypothesis import given
from hypothesis import strategies as st
from lookalikes import DATA_SETS, shared_data

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.traces import Message, Trace, read_traces
from cot_components.data.text.segments import assistant_text, segment_text
from cot_components.errors import UserError
from cot_components.roles import Role

TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    return shared_data(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda data_set: data_set.path)
def test_a_shared_data_set_reads_as_counted(data_set, data_folder):
    expected, report = data_set.expected, DropReport()
    path = data_folder / data_set.path
    traces = list(read_traces(path, columns=data_set.columns, strict=False, report=report))
    named = list(read_traces(path, columns=data_set.columns, strict=False, format=data_set.format))
    assert named == traces
    assert report.read == expected.rows and report.kept == len(traces)
    assert {reason: len(places) for reason, places in report.dropped.items()} == expected.dropped
    assert len({trace.id for trace in traces} | {-1}) == len(traces) + 1
    assert sum(trace.answer is not None for trace in traces) == expected.references

    thoughts = 0
    for trace in traces:
        text = assistant_text(trace.messages[-1], data_set.tags)
        segments = segment_text(text, data_set.tags)
        roles = [segment.role for segment in segments]
        assert "".join(segment.text for segment in segments) == text
        assert roles in ([Role.ANSWER], [Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER])
        thoughts += len(roles) == 4
    assert thoughts == expected.thoughts
    assert sum(trace.messages[-1].thought == "" for trace in traces) == expected.blank_thoughts


def test_shared_rows_keep_their_text_and_place(data_folder):
    """Against the plainest possible reading of the same file."""
    path, checked = data_folder / "think_toolrl/messages.jsonl", 0
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = [json.loads(line) for line in file]
    for number, (row, trace) in enumerate(zip(lines, read_traces(path), strict=True)):
        styles = {"assistant": "tagged" if row["tool_calls"] else ""}
        messages = tuple(Message(m["role"], m["content"], calls=styles.get(m["role"], "")) for m in row["messages"])
        assert trace == Trace(number, messages, f"{path}:{number + 1}")
        thought = segment_text(trace.messages[-1].content, DATA_SETS[1].tags)[1]
        assert thought.text.strip() == row["think"].strip()
        checked += 1
    assert checked == DATA_SETS[1].expected.rows


@pytest.mark.parametrize("faulty", FAULTY_LINES, ids=lambda faulty: faulty.name)
def test_every_faulty_line_has_its_outcome(faulty, tmp_path):
    path, report = write_lines(tmp_path / "x.jsonl", GOOD, b"", faulty.line, b" \r", GOOD), DropReport()
    kept = list(read_traces(path, strict=False, report=report))
    if faulty.reason is None:
        assert [(trace.id, trace.where) for trace in kept] == [(0, f"{path}:1"), (1, f"{path}:3"), (2, f"{path}:5")]
        assert kept[1].messages[1].content == json.loads(faulty.line)["response"]
        assert kept == list(read_traces(path))
        return
    assert [(trace.id, trace.where) for trace in kept] == [(0, f"{path}:1"), (2, f"{path}:5")]
    assert report.dropped == {faulty.reason: [f"{path}:3"]} and report.read == 3
    assert fault(path).startswith(f"{path}:3: {faulty.reason}")


def test_a_file_that_ends_within_a_line_says_so(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode()[:20])
    assert fault(path).startswith(f"{path}:2: not JSON: the file ends within the line (")
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode())
    assert len(list(read_traces(path))) == 2


def test_a_mark_at_the_start_of_a_file_is_skipped(tmp_path):
    mark = b"\xef\xbb\xbf"
    files = {"x.jsonl": json.dumps(GOOD), "x.json": json.dumps([GOOD]), "x.txt": "q||c #### a"}
    for name, text in files.items():
        (tmp_path / name).write_bytes(mark + text.encode())
        (trace,) = read_traces(tmp_path / name)
        assert trace.messages[0] == Message("user", "q")
    assert "not UTF-8" in fault(write_lines(tmp_path / "y.jsonl", json.dumps(GOOD).encode("utf-16")))


def test_a_line_of_fifty_megabytes_is_a_line(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", GOOD | {"response": "a" * 50_000_000}, GOOD)
    first, second = read_traces(path)
    assert len(first.messages[1].content) == 50_000_000 and second.where == f"{path}:2"


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n \n"])
)
def test_any_text_survives_jsonl(tmp_path_factory, pairs, escaped, end):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    rows = [json.dumps({"instruction": q, "response": a}, ensure_ascii=escaped) for q, a in pairs]
    path.write_bytes("".join(row + end for row in rows).encode())
    found = [(trace.id, *(message.content for message in trace.messages)) for trace in read_traces(path)]
    assert found == [(i, q, a) for i, (q, a) in enumerate(pairs)]


def test_a_source_without_rows_is_an_error(tmp_path):
    for name, text in {"x.jsonl": "\n \n", "y.json": "", "z.json": " [ ] ", "w.txt": ""}.items():
        (tmp_path / name).write_text(text)
        assert fault(tmp_path / name, strict=False) == f"{tmp_path / name}: there are no rows"


def test_max_rows_counts_good_and_bad_rows(tmp_path):
    path, report = write_lines(tmp_path / "x.jsonl", GOOD, [], GOOD, GOOD), DropReport()
    assert [trace.id for trace in read_traces(path, strict=False, report=report, max_rows=3)] == [0, 2]
    assert (report.read, report.kept) == (3, 2)
    with pytest.raises(UserError, match="max_rows must be at least 1"):
        read_traces(path, max_rows=0)


def test_the_format_is_found_once_for_a_source(tmp_path):
    other = {"prompt": "q", "completion": "a"}
    path = write_lines(tmp_path / "x.jsonl", [], GOOD, other)
    report = DropReport()
    assert len(list(read_traces(path, strict=False, report=report))) == 1
    assert report.dropped["'instruction' is missing"] == [f"{path}:3"]


def test_arguments_that_cannot_work_fail_before_reading(tmp_path):
    (tmp_path / "x.xlsx").write_text("a,b\n")
    for source, settings, message in [
        (tmp_path / "none.jsonl", {}, "no such file or folder"),
        (tmp_path / "none", {}, "no such file or folder"),
        ("nowhere/none.jsonl", {}, "no such file or folder"),
        (
            write_lines(tmp_path / "x.jsonl", GOOD),
            {"split": "held_out"},
            "x.jsonl: a file has no split 'held_out'; name",
        ),
        (write_lines(tmp_path / "x.jsonl", GOOD), {"subset": "easy"}, "x.jsonl: a file has no subset 'easy'; name"),
        (tmp_path / "x.xlsx", {}, r"unknown kind of file '.xlsx'; known: .jsonl, .*\.csv, .*\.parquet, .*\.gz"),
        (write_lines(tmp_path / "x.jsonl", GOOD), {"format": "chat"}, "unknown format 'chat'"),
        (write_lines(tmp_path / "x.jsonl", GOOD), {"columns": {"prompts": "x"}}, "did you mean 'prompt'"),
    ]:
        with pytest.raises(UserError, match=message):
            read_traces(source, **settings)


def test_reports_add_up_and_name_the_commonest_reasons():
    report, other = DropReport(read=5), DropReport(read=15)
    report.add("f:1", "first")
    for number in range(4):
        other.add(f"g:{number}", "second")
    other.add("g:9", "first")
    report.merge(other)
    assert (report.read, report.kept, report.num_dropped) == (20, 14, 6)
    assert report.summary().splitlines() == [
        "20 rows read, 14 kept, 6 dropped",
        "  4 x second: g:0, g:1, g:2, ...",
        "  2 x first: f:1, g:9",
    ]
    assert other.dropped["first"] == ["g:9"], "merging leaves the other report alone"
    report.check(0.3)
    with pytest.raises(UserError, match=r"^6 of 20 rows .* 14 are left .*: 4 x second \(first: g:0\); 2 x first"):
        report.check(0.29)


def test_a_report_names_three_reasons_and_refuses_an_empty_rest():
    report = DropReport(read=4)
    for number in range(4):
        report.add(f"f:{number}", f"reason {number}")
    with pytest.raises(UserError, match="reason 2") as caught:
        report.check(1.0)
    assert "reason 3" not in str(caught.value)
    with pytest.raises(UserError, match="there were no rows to read"):
        DropReport().check(1.0)


def test_a_fault_reads_place_reason_detail():
    assert str(TraceError("f:1", "a reason")) == "f:1: a reason"
    placed = RowError("a reason", "more").at("f:1")
    assert (str(placed), placed.where, placed.reason) == ("f:1: a reason (more)", "f:1", "a reason")
    assert isinstance(placed, ValueError)


def test_no_real_text_hides_a_missing_value(tmp_path):
    """Whatever is null anywhere in a row, no message and no answer ever says so in words."""
    turn = {"role": "assistant", "content": "a", "reasoning_content": None, "weight": None, "tool_calls": None}
    rows = [
        {"messages": [{"role": "user", "content": "q"}, turn], "answer": None},
        {"instruction": "q", "response": "a", "system": None, "answer": None, "thought": None},
        {"instruction": "q", "input": None, "output": "a", "system": None},
        {"prompt": "q", "completion": "a", "answer": None},
    ]
    words = Counter()
    for row in rows:
        (trace,) = read_traces(write_lines(tmp_path / "x.jsonl", row))
        words.update([str(trace.answer), *(text for m in trace.messages for text in (m.content, str(m.thought)))])
        assert trace.answer is None and all(m.thought is None for m in trace.messages)
    assert words == {"q": len(rows), "a": len(rows), "None": 3 * len(rows)}


def test_a_very_long_line_is_one_row(tmp_path):
    response = f"<think>{'12 + 5 = 17. ' * 2**20}</think>17"
    (tmp_path / "long.jsonl").write_text(json.dumps({"instruction": "12 + 5?", "response": response}) + "\n")
    (trace,) = read_traces(str(tmp_path / "long.jsonl"))
    assert trace.messages[-1].content == response
