"""Reading: the shared data sets, the table of faults, places, and the report."""

import json

import pytest
from degenerate import FAULTY_LINES, GOOD, fault, write_lines
from lookalikes import DATA_SETS, shared_data

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.traces import Message, Trace, read_traces
from cot_components.data.text.segments import assistant_text, segment_text
from cot_components.errors import UserError
from cot_components.roles import Role


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    return shared_data(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda data_set: data_set.path)
def test_a_shared_data_set_reads_as_counted(data_set, data_folder):
    expected, report = data_set.expected, DropReport()
    path, tags = data_folder / data_set.path, data_set.tags
    traces = list(read_traces(path, columns=data_set.columns, strict=False, report=report))
    assert traces == list(read_traces(path, columns=data_set.columns, strict=False, format=data_set.format))
    assert (report.read, report.kept) == (expected.rows, len(traces))
    assert {reason: len(places) for reason, places in report.dropped.items()} == expected.dropped
    assert len({trace.id for trace in traces}) == len(traces)
    assert sum(trace.answer is not None for trace in traces) == expected.references
    thoughts = 0
    for text in (assistant_text(trace.messages[-1], tags) for trace in traces):
        segments = segment_text(text, tags)
        roles = [segment.role for segment in segments]
        assert "".join(segment.text for segment in segments) == text
        assert roles in ([Role.ANSWER], [Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER])
        thoughts += len(roles) == 4
    assert thoughts == expected.thoughts
    assert sum(trace.messages[-1].thought == "" for trace in traces) == expected.blank_thoughts


def test_shared_rows_keep_their_text_and_place(data_folder):
    """Against the plainest possible reading of the same file."""
    path = data_folder / "think_toolrl/messages.jsonl"
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = [json.loads(line) for line in file]
    for number, (row, trace) in enumerate(zip(lines, read_traces(path), strict=True)):
        styles = {"assistant": "tagged" if row["tool_calls"] else ""}
        messages = tuple(Message(m["role"], m["content"], calls=styles.get(m["role"], "")) for m in row["messages"])
        assert trace == Trace(number, messages, f"{path}:{number + 1}")
        thought = segment_text(trace.messages[-1].content, DATA_SETS[1].tags)[1]
        assert thought.text.strip() == row["think"].strip()
    assert len(lines) == DATA_SETS[1].expected.rows


@pytest.mark.parametrize("faulty", FAULTY_LINES, ids=lambda faulty: faulty.name)
def test_every_faulty_line_has_its_outcome(faulty, tmp_path):
    path, report = write_lines(tmp_path / "X.JSONL", GOOD, b"", faulty.line, b" \r", GOOD), DropReport()
    kept = list(read_traces(path, strict=False, report=report))
    places = [(0, f"{path}:1"), (1, f"{path}:3"), (2, f"{path}:5")]
    if faulty.reason is None:
        assert [(trace.id, trace.where) for trace in kept] == places
        assert kept[1].messages[1].content == json.loads(faulty.line)["response"]
        assert kept == list(read_traces(path))
        return
    assert [(trace.id, trace.where) for trace in kept] == [places[0], places[2]]
    assert report.dropped == {faulty.reason: [f"{path}:3"]} and report.read == 3
    assert fault(path).startswith(f"{path}:3: {faulty.reason}")


def test_a_file_that_ends_within_a_line_says_so(tmp_path):
    path, line = tmp_path / "x.jsonl", json.dumps(GOOD).encode()
    path.write_bytes(line + b"\n" + line[:20])
    assert fault(path).startswith(f"{path}:2: not JSON: the file ends within the line (")
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\n" + line)
    assert len(list(read_traces(path))) == 2
    assert "not UTF-8" in fault(write_lines(tmp_path / "y.jsonl", line.decode().encode("utf-16")))


def test_a_line_of_fifty_megabytes_is_a_line(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", GOOD | {"response": "a" * 50_000_000}, GOOD)
    first, second = read_traces(path)
    assert len(first.messages[1].content) == 50_000_000 and second.where == f"{path}:2"


@pytest.mark.parametrize(("name", "text"), [("x.jsonl", "\n \n"), ("y.json", ""), ("z.json", " [ ] "), ("w.txt", "")])
def test_a_source_without_rows_is_an_error(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert fault(tmp_path / name, strict=False) == f"{tmp_path / name}: there are no rows"


def test_max_rows_counts_good_and_bad_rows(tmp_path):
    path, report = write_lines(tmp_path / "x.jsonl", GOOD, [], GOOD, GOOD), DropReport()
    assert [trace.id for trace in read_traces(path, strict=False, report=report, max_rows=3)] == [0, 2]
    assert (report.read, report.kept) == (3, 2)


def test_the_format_is_found_once_for_a_source(tmp_path):
    path, report = write_lines(tmp_path / "x.jsonl", [], GOOD, {"prompt": "q", "completion": "a"}), DropReport()
    assert len(list(read_traces(path, strict=False, report=report))) == 1
    assert report.dropped["'instruction' is missing"] == [f"{path}:3"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("none.jsonl", {}, "no such file or folder"),
        ("nowhere/none.jsonl", {}, "no such file or folder"),
        ("x.xlsx", {}, r"unknown kind of file '.xlsx'; known: .jsonl, .*\.csv, .*\.parquet, .*\.gz"),
        ("x.jsonl", {"split": "held_out"}, "x.jsonl: a file has no split 'held_out'"),
        ("x.jsonl", {"subset": "easy"}, "x.jsonl: a file has no subset 'easy'"),
        ("x.jsonl", {"columns": {"prompts": "x"}}, "did you mean 'prompt'"),
        ("x.jsonl", {"max_rows": 0}, "max_rows must be at least 1"),
    ],
)
def test_arguments_that_cannot_work_fail_before_reading(name, settings, message, tmp_path, monkeypatch):
    for there in ("x.jsonl", "x.xlsx"):
        write_lines(tmp_path / there, GOOD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        read_traces(name if "nowhere" in name else tmp_path / name, **settings)


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
    report = DropReport(4, {f"reason {number}": [f"f:{number}"] for number in range(4)})
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
