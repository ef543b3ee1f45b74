"""Rows of BFCL that several calls answer rightly: read with their accepted calls, judged by `calls`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bfcl import write_bfcl
from degenerate import write_lines

from cot_components.data.bad_rows import DropReport, TraceError
from cot_components.data.read.calls import TAGGED
from cot_components.data.read.traces import read_traces
from cot_components.data.text.segments import Tags
from cot_components.errors import UserError
from cot_components.evaluation.comparers import calls_equal
from cot_components.evaluation.evaluate import evaluate
from cot_components.evaluation.questions import AnswerEvaluation


def test_a_question_becomes_a_conversation_with_all_its_right_calls(tmp_path: Path) -> None:
    first, second, third = read_traces(write_bfcl(tmp_path))
    system, user, answer = first.messages
    assert '"description": "Books seats."' in system.content and "<tool_call>" in system.content
    assert user.content == "Two seats to Rome, please." and first.where.endswith("BFCL_v4_simple_python.json:1")
    assert answer.content == '<tool_call>\n{"name": "book", "arguments": {"city": "Rome", "seats": 2}}\n</tool_call>'
    assert answer.calls == TAGGED and "Books seats" not in (first.answer or "")
    assert second.messages[-1].content.count("<tool_call>") == 2
    assert third.messages[-1].content.count('"arguments": {"number": 7, "fees": {"max": 10}}') == 1
    assert all(calls_equal(t.messages[-1].content, t.answer or "") for t in (first, second, third))
    assert [t.id for t in read_traces(write_bfcl(tmp_path), subset="parallel")] == [0, 1]


@pytest.mark.parametrize(
    ("row", "said", "right"),
    [
        (0, "book(city='Rome', seats=2)", True),
        (0, "book(city='rome, italy', seats=2)", True),
        (0, "book(city='Rome', seats=2, meal='vegan')", True),
        (0, "book(city='Rome', seats=2, meal='fish')", False),
        (0, "book(city='Rome', seats='2')", False),
        (0, "book(city='Rome')", False),
        (0, "[book(city='Rome', seats=2), book(city='Rome', seats=2)]", False),
        (0, "I book two seats.", False),
        (1, "[book(city='Oslo', seats=1), book(city='Rome', seats=1)]", True),
        (1, "book(city='Rome', seats=1)", False),
        (1, "[book(city='Rome', seats=1), book(city='Rome', seats=1)]", False),
        (2, "cancel(number=7, fees={'max': 10.0})", True),
        (2, "cancel(number=7, fees={'max': 10, 'currency': 'EUR'})", True),
        (2, "cancel(number=7, fees={'max': 11})", False),
        (2, "book(number=7)", False),
    ],
)
def test_what_is_right(row: int, said: str, right: bool, tmp_path: Path) -> None:
    trace = list(read_traces(write_bfcl(tmp_path)))[row]
    result = evaluate(
        [trace],
        lambda prompts: [f"<think>x</think>{said}"],
        tags=Tags(),
        count_tokens=len,
        extractor="tool_calls",
        comparer="calls",
    )
    assert result.answer_accuracy == right


def test_one_right_call_is_compared_as_a_call() -> None:
    reference = '[{"arguments": {"x": 1, "y": 2}, "name": "f"}]'
    assert calls_equal("f(y=2, x=1)", reference) and not calls_equal("f(y=2)", reference)
    assert not calls_equal("Yes.", "Yes."), "no calls"


@pytest.mark.parametrize(
    ("part", "row", "names"),
    [
        ("simple_python", {"id": "s0", "question": [[], []], "function": []}, "question"),
        ("simple_python", {"id": "s0", "question": [[{"role": "user", "content": "q"}]], "function": [{}]}, "function"),
        ("simple_python", {"id": "new", "question": [], "function": []}, "'new'"),
        ("simple_python", {"id": [], "question": [], "function": []}, "id"),
        ("possible_answer", {"id": "s0"}, "ground_truth"),
        ("possible_answer", {"id": "s0", "ground_truth": [{"book": {"city": "Rome"}}]}, "ground_truth"),
        ("possible_answer", {"id": "s0", "ground_truth": [{"book": {}, "cancel": {}}]}, "ground_truth"),
    ],
)
def test_a_row_that_cannot_be_used(part: str, row: dict, names: str, tmp_path: Path) -> None:
    folder = write_bfcl(tmp_path)
    where = folder / part if part == "possible_answer" else folder
    write_lines(where / "BFCL_v4_simple_python.json", row)
    with pytest.raises(TraceError, match=r"BFCL_v4_simple_python\.json:1: ") as error:
        list(read_traces(folder))
    assert names in str(error.value)


def test_a_lenient_reader_leaves_out_a_question_without_accepted_calls(tmp_path: Path) -> None:
    folder, report = write_bfcl(tmp_path), DropReport()
    with (folder / "BFCL_v4_parallel.json").open("a") as file:
        file.write(json.dumps({"id": "p9", "question": [], "function": []}) + "\n{\n")
    assert len(list(read_traces(folder, strict=False, report=report))) == 3 and report.num_dropped == 2


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"subset": "simple_pyton"}, "simple_python"),
        ({"subset": "live_multiple"}, "BFCL_v*_live_multiple.json"),
        ({"subset": "multiple"}, "possible_answer/BFCL_v4_multiple.json"),
        ({"split": "test"}, "split"),
    ],
)
def test_a_part_that_is_not_there(options: dict, names: str, tmp_path: Path) -> None:
    (write_bfcl(tmp_path) / "BFCL_v4_multiple.json").write_text("")
    with pytest.raises(UserError) as error:
        list(read_traces(tmp_path, **options))
    assert names in str(error.value)


def test_another_comparer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.comparer"):
        AnswerEvaluation(source=str(write_bfcl(tmp_path)), extractor="tool_calls")
