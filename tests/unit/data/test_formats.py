"""Rows of every known shape, and rows that must be refused."""

import json
import re
from typing import Any

import pytest

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import FORMATS, Content, Message, check_format, detect, read_row
from cot_components.errors import UserError

USER, ASSISTANT = Message("user", "q"), Message("assistant", "a")
THINKING = Message("assistant", "#### 2,000", thought="c")
SYSTEM = Message("system", "s")
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def read(row: dict[str, Any], columns: dict[str, str] | None = None) -> Content:
    columns = columns or {}
    return read_row(row, FORMATS[detect(row, columns)], columns)


def refusal(row: dict[str, Any], columns: dict[str, str] | None = None) -> str:
    with pytest.raises(RowError) as caught:
        read(row, columns)
    return str(caught.value).replace("; dataset.columns says which of them is which", "")


@pytest.mark.parametrize(
    ("format", "row", "messages", "answer"),
    [
        ("messages", {"messages": TURNS, "answer": " 5 "}, (USER, ASSISTANT), "5"),
        ("messages", {"messages": GPT}, (USER, ASSISTANT), None),
        ("instruction", {"instruction": "q", "response": "a"}, (USER, ASSISTANT), None),
        ("instruction", {"instruction": "q", "response": "a", "system": "s"}, (SYSTEM, USER, ASSISTANT), None),
        ("instruction", {"instruction": "q", "response": "a", "system": " "}, (USER, ASSISTANT), None),
        (
            "instruction",
            {"instruction": "q", "response": "a", "thought": "t"},
            (USER, Message("assistant", "a", "t")),
            None,
        ),
        ("instruction", {"instruction": "q", "response": "a", "conversations": GPT}, (USER, ASSISTANT), None),
        ("prompt_completion", {"prompt": "q", "completion": "a", "answer": 5}, (USER, ASSISTANT), "5"),
        ("prompt_completion", {"prompt": TURNS[:1], "completion": TURNS[1:], "answer": 0.5}, (USER, ASSISTANT), "0.5"),
        ("sharegpt", {"conversations": GPT, "system": "s"}, (SYSTEM, USER, ASSISTANT), None),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "s"}, *GPT], "system": "other"},
            (SYSTEM, USER, ASSISTANT),
            None,
        ),
        ("sharegpt", {"conversations": TURNS}, (USER, ASSISTANT), None),
        ("alpaca", {"instruction": "q", "output": "a"}, (USER, ASSISTANT), None),
        ("alpaca", {"instruction": "q", "input": " ", "output": "a"}, (USER, ASSISTANT), None),
        ("alpaca", {"instruction": "q", "input": None, "output": "a"}, (USER, ASSISTANT), None),
        (
            "alpaca",
            {"instruction": "q", "input": " i\n", "output": "a"},
            (Message("user", "q\n\n i\n"), ASSISTANT),
            None,
        ),
        ("gsm8k", {"question": "q", "answer": "c\n#### 2,000"}, (USER, THINKING), "2,000"),
        ("messages", {"messages": TURNS, "system": "s"}, (SYSTEM, USER, ASSISTANT), None),
        ("messages", {"messages": json.dumps(TURNS)}, (USER, ASSISTANT), None),
        ("sharegpt", {"conversations": json.dumps(GPT)}, (USER, ASSISTANT), None),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "history": [["q", "a"], ["q", "a"]]},
            (USER, ASSISTANT, USER, ASSISTANT, USER, ASSISTANT),
            None,
        ),
        ("alpaca", {"instruction": "q", "output": "a", "history": []}, (USER, ASSISTANT), None),
        ("question_answer", {"question": "q", "answer": "a"}, (USER, ASSISTANT), None),
        (
            "question_answer",
            {"question": "q", "answer": "a", "thought": "t", "system": "s"},
            (SYSTEM, USER, Message("assistant", "a", thought="t")),
            None,
        ),
        ("icot", {"text": "q||c #### 2,000"}, (USER, THINKING), "2,000"),
        ("icot", {"text": " q || #### 9"}, (USER, Message("assistant", "#### 9", thought="")), "9"),
    ],
)
def test_a_row_becomes_messages(format, row, messages, answer):
    assert detect(row, {}) == format
    assert read(row) == Content(messages, answer)


def test_columns_are_mapped_and_decide_the_format():
    row = {"problem": "q", "solution": "a", "final": 7, "prompt": "p", "completion": "c"}
    columns = {"instruction": "problem", "response": "solution", "answer": "final"}
    assert detect(row, columns) == "instruction" and detect(row, {}) == "prompt_completion"
    assert read(row, columns) == Content((USER, ASSISTANT), "7")
    assert refusal(row, {"instruction": "problem", "response": "nowhere"}).startswith("the columns fit no known format")
    assert refusal(row, columns | {"answer": "nowhere"}) == "'nowhere' is missing"
    assert refusal(row | {"solution": None}, columns) == "'solution' is null"


def test_the_first_row_decides_whether_answers_are_of_gsm8k():
    hashed, plain = {"question": "q", "answer": "c #### 1"}, {"question": "q", "answer": "a"}
    formats = [FORMATS[detect(row, {})] for row in (hashed, plain)]
    for row, format, reason in (
        (plain, formats[0], "'####' does not stand there exactly once (0 times)"),
        (hashed, formats[1], "'answer' holds '####' (such rows are of dataset.format=gsm8k)"),
    ):
        with pytest.raises(RowError) as caught:
            read_row(row, format, {})
        assert str(caught.value) == reason
    mapped = {"question": "q", "solution": "c #### 1", "answer": "1"}
    assert detect(mapped, {"answer": "solution"}) == "gsm8k"


def test_a_row_that_fits_no_format_says_what_to_do():
    with pytest.raises(RowError, match=r"columns: problem, solution; dataset\.columns"):
        detect({"problem": "q", "solution": "a"}, {})
    with pytest.raises(RowError) as caught:
        detect({"x" * 10_000: 1}, {})
    assert len(str(caught.value)) < 500


def test_columns_full_of_nulls_do_not_hide_the_ones_in_use():
    row = {"messages": None, "instruction": "q", "response": "a", "conversations": None}
    assert read(row).messages == (USER, ASSISTANT)


def test_turns_read_their_thought_weight_and_role():
    turns = [
        {"role": "developer", "content": "", "weight": None},
        {"role": "Human", "content": "q", "reasoning_content": " ", "train": False},
        {"from": "gpt", "value": "a", "reasoning_content": "t", "weight": 0.5, "tool_calls": None},
        {"role": "function_response", "content": ""},
        {"role": "assistant", "content": "a", "thinking": "", "loss_scale": 2, "tool_calls": []},
        {"role": "user", "content": "q", "reasoning_content": None},
        {"role": "assistant", "content": "a", "reasoning": None, "loss": True},
    ]
    assert read({"messages": turns}).messages == (
        Message("system", ""),
        Message("user", "q", weight=0.0),
        Message("assistant", "a", thought="t", weight=0.5),
        Message("tool", ""),
        Message("assistant", "a", thought="", weight=2.0),
        Message("user", "q"),
        Message("assistant", "a"),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight": -1}, "'weight' of a turn is not a number from 0 (-1)"),
        ({"weight": 10**400}, f"'weight' of a turn is not a number from 0 ({10**400})"),
        ({"weight": "1"}, "'weight' of a turn is not a number from 0 ('1')"),
        ({"loss_weight": float("nan")}, "'loss_weight' of a turn is not a number from 0 (nan)"),
        ({"loss_scale": float("inf")}, "'loss_scale' of a turn is not a number from 0 (inf)"),
        ({"loss": 2.31}, "'loss' of a turn is neither true nor false (2.31)"),
        ({"train": "false"}, "'train' of a turn is neither true nor false ('false')"),
        ({"weight": 1, "train": True}, "a turn names its weight twice (weight and train)"),
        ({"reasoning": "t", "thinking": "u"}, "a turn holds two thoughts (reasoning and thinking)"),
        ({"reasoning_content": 3}, "'reasoning_content' of a turn is not text (it is int)"),
        ({"reasoning_content": "\ud800"}, "'reasoning_content' of a turn holds a lone surrogate (character 0)"),
        ({"content": "ab\udfff"}, "'content' of the assistant's turn holds a lone surrogate (character 2)"),
        ({"content": None}, "'content' of the assistant's turn is null"),
        ({"content": 3}, "'content' of the assistant's turn is not text (it is int)"),
        ({"content": {"text": "a"}}, "'content' of the assistant's turn is not text (it is dict)"),
        ({"content": " \n"}, "the response is empty"),
        ({"content": "", "reasoning_content": "t"}, "the response is empty"),
        ({"tool_calls": {"name": "f"}}, "'tool_calls' is not a list (it is dict)"),
        ({"role": None}, "'role' of a turn is null"),
        ({"role": "narrator"}, "a turn has an unknown role ('narrator')"),
    ],
)
def test_a_turn_that_is_not_certain_is_refused(changes, reason):
    assert refusal({"messages": [TURNS[0], TURNS[1] | changes]}) == reason


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no turns"),
        ([{"role": "system", "content": "s"}], "no turns"),
        (TURNS[1:], "no prompt before the first answer (first turn: assistant)"),
        ([{"role": "tool", "content": "x"}, *TURNS], "no prompt before the first answer (first turn: tool)"),
        (TURNS[:1], "the last turn is not the assistant's (it is user's)"),
        ([*TURNS, {"role": "tool", "content": "x"}], "the last turn is not the assistant's (it is tool's)"),
        ([*TURNS, TURNS[1]], "two assistant turns in a row"),
        ([{"role": "user", "content": ""}, TURNS[1]], "the prompt is empty"),
        ([*TURNS, {"role": "user", "content": "\t"}, TURNS[1]], "the prompt is empty"),
        ([TURNS[0], {"role": "assistant", "content": ""}, *TURNS], "the response is empty"),
        (
            [TURNS[0] | {"reasoning_content": "t"}, TURNS[1]],
            "a thought in a turn that is not the assistant's (role user)",
        ),
        ([{"content": "q"}, TURNS[1]], "a turn has neither role and content nor from and value (keys ['content'])"),
        (["q", "a"], "a turn is not an object (it is str)"),
        ("q", "'messages' is not JSON (Expecting value: 'q')"),
        ("3", "'messages' is not a list of turns (it is int)"),
        ('[{"role": "user", "role": "user"}]', "'messages': a key stands twice in an object ('role')"),
        ({"role": "user"}, "'messages' is not a list of turns (it is dict)"),
    ],
)
def test_turns_that_make_no_conversation_are_refused(turns, reason):
    assert refusal({"messages": turns}) == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "the columns fit no known format (columns: none)"),
        ({"prompt": "q", "answer": "a"}, "the columns fit no known format (columns: prompt, answer)"),
        ({"prompt": "q", "completion": TURNS[1:]}, "'completion' is not text (it is list)"),
        ({"prompt": TURNS[:1], "completion": "a"}, "'prompt' is not text (it is list)"),
        ({"prompt": "q", "completion": None}, "'completion' is null"),
        ({"instruction": "q", "input": 3, "output": "a"}, "'input' is not text (it is int)"),
        ({"instruction": "q", "response": "a", "system": 1}, "'system' is not text (it is int)"),
        ({"question": "q", "answer": " "}, "the response is empty"),
        ({"question": "q", "answer": None}, "'answer' is null"),
        ({"question": "q", "answer": 4}, "'answer' is not text (it is int)"),
        ({"instruction": "q", "output": "a", "history": ["q", "a"]}, "'history' is not a list of pairs"),
        ({"instruction": "q", "output": "a", "history": [["q", None]]}, "'history' is null"),
        ({"question": "q", "answer": "c #### 1 #### 2"}, "'####' does not stand there exactly once (2 times)"),
        ({"question": "q", "answer": "c ####  "}, "nothing after '####'"),
        ({"question": "", "answer": "c #### 1"}, "the prompt is empty"),
        ({"text": "a plain text"}, "'||' does not stand there exactly once (0 times)"),
        ({"text": "q||c||d #### 1"}, "'||' does not stand there exactly once (2 times)"),
        ({"text": "q||c"}, "'####' does not stand there exactly once (0 times)"),
        ({"text": " ||c #### 1"}, "the prompt is empty"),
    ],
)
def test_rows_that_fit_no_format_or_break_theirs_are_refused(row, reason):
    assert refusal(row) == reason


@pytest.mark.parametrize("value", [None, "", "  ", [1], {"a": 1}, True, float("nan")])
def test_a_reference_that_is_none_is_none_and_never_a_word(value):
    assert read({"instruction": "q", "response": "a", "answer": value}).answer is None


def test_a_reference_the_user_asked_for_must_be_one():
    row = {"instruction": "q", "response": "a", "gold": [1]}
    assert refusal(row, {"answer": "gold"}) == "'gold' is neither text nor a number (it is list)"
    assert refusal(row | {"gold": "\ud800"}, {"answer": "gold"}) == "'gold' holds a lone surrogate (character 0)"


def test_unknown_formats_and_fields_are_refused_with_the_nearest_name():
    check_format("auto", {"instruction": "x", "messages": "y"})
    with pytest.raises(UserError, match="unknown format 'sharegtp'; did you mean 'sharegpt'"):
        check_format("sharegtp", {})
    with pytest.raises(UserError, match="format 'alpaca' has no field 'response'"):
        check_format("alpaca", {"response": "x"})
    with pytest.raises(UserError, match="no field 'instructions'; did you mean 'instruction'"):
        check_format("auto", {"instructions": "x"})
    with pytest.raises(UserError, match="no field True; YAML reads a bare on, off, yes or no as a truth value"):
        check_format("auto", {True: "x"})
    for column in (None, 1, ["a"]):
        with pytest.raises(UserError, match=re.escape(f"columns.response must be the name of a column, got {column}")):
            check_format("auto", {"response": column})
