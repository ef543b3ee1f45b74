"""Rows of every known shape, and rows that must be refused."""

import json
import re

import pytest
from reading import read, refusal

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import FORMATS, Content, Message, check_format, detect, read_row
from cot_components.errors import UserError

USER, ASSISTANT, SYSTEM = Message("user", "q"), Message("assistant", "a"), Message("system", "s")
PAIR, TRIPLE = (USER, ASSISTANT), (SYSTEM, USER, ASSISTANT)
THINKING = (USER, Message("assistant", "#### 2,000", thought="c"))
BESIDE = Message("assistant", "a", thought="t")
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
MAGPIE, ALPACA = ({"instruction": "q", key: "a"} for key in ("response", "output"))
QA = {"question": "q", "answer": "a"}


@pytest.mark.parametrize(
    ("format", "row", "messages", "answer"),
    [
        ("messages", {"messages": TURNS, "answer": " 5 "}, PAIR, "5"),
        ("messages", {"messages": GPT}, PAIR, None),
        ("messages", {"messages": TURNS, "system": "s"}, TRIPLE, None),
        ("messages", {"messages": json.dumps(TURNS)}, PAIR, None),
        ("messages", {"messages": TURNS, "answer": None}, PAIR, None),
        ("instruction", MAGPIE, PAIR, None),
        ("instruction", MAGPIE | {"system": "s"}, TRIPLE, None),
        ("instruction", MAGPIE | {"system": " ", "thought": None}, PAIR, None),
        ("instruction", MAGPIE | {"thought": "t", "system": None}, (USER, BESIDE), None),
        ("instruction", MAGPIE | {"conversations": GPT, "messages": None}, PAIR, None),
        ("prompt_completion", {"prompt": "q", "completion": "a", "answer": 5}, PAIR, "5"),
        ("prompt_completion", {"prompt": TURNS[:1], "completion": TURNS[1:], "answer": 0.5}, PAIR, "0.5"),
        ("sharegpt", {"conversations": GPT, "system": "s"}, TRIPLE, None),
        ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, *GPT], "system": "other"}, TRIPLE, None),
        ("sharegpt", {"conversations": TURNS}, PAIR, None),
        ("sharegpt", {"conversations": json.dumps(GPT)}, PAIR, None),
        ("alpaca", ALPACA, PAIR, None),
        ("alpaca", ALPACA | {"input": " ", "history": []}, PAIR, None),
        ("alpaca", ALPACA | {"input": None, "system": None}, PAIR, None),
        ("alpaca", ALPACA | {"input": " i\n"}, (Message("user", "q\n\n i\n"), ASSISTANT), None),
        ("alpaca", ALPACA | {"history": [["q", "a"], ["q", "a"]]}, PAIR * 3, None),
        ("gsm8k", QA | {"answer": "c\n#### 2,000"}, THINKING, "2,000"),
        ("question_answer", QA, PAIR, None),
        ("question_answer", QA | {"thought": "t", "system": "s"}, (SYSTEM, USER, BESIDE), None),
        ("icot", {"text": "q||c #### 2,000"}, THINKING, "2,000"),
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
    assert read(row, columns) == Content(PAIR, "7")
    assert "no known format" in refusal(row, {"instruction": "problem", "response": "nowhere"})
    assert refusal(row, columns | {"answer": "nowhere"}) == "'nowhere' is missing"
    assert refusal(row | {"solution": None}, columns) == "'solution' is null"
    assert detect({"question": "q", "solution": "c #### 1", "answer": "1"}, {"answer": "solution"}) == "gsm8k"


def test_the_first_row_decides_whether_answers_are_of_gsm8k():
    hashed, plain = QA | {"answer": "c #### 1"}, QA
    for row, first, reason in ((plain, hashed, r"'####' .*0 times"), (hashed, plain, r"dataset\.format=gsm8k")):
        with pytest.raises(RowError, match=reason):
            read_row(row, FORMATS[detect(first, {})], {})


def test_a_row_that_fits_no_format_says_what_to_do():
    assert re.search(r"columns: problem, solution; set dataset\.columns", refusal({"problem": "q", "solution": "a"}))
    assert len(refusal({"x" * 10_000: 1})) < 500


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
        *PAIR,
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(({"weight": weight}, "'weight' of a turn is not a number from 0") for weight in (-1, 10**400, "1")),
        ({"loss_weight": float("nan")}, "'loss_weight' of a turn is not a number from 0 (nan)"),
        ({"loss_scale": float("inf")}, "'loss_scale' of a turn is not a number from 0 (inf)"),
        ({"loss": 2.31}, "'loss' of a turn is neither true nor false (2.31)"),
        ({"train": "false"}, "'train' of a turn is neither true nor false"),
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
    assert refusal({"messages": [TURNS[0], TURNS[1] | changes]}).startswith(reason)


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
        ([TURNS[0] | {"reasoning_content": "t"}, TURNS[1]], "a thought in a turn that is not the assistant's"),
        ([{"content": "q"}, TURNS[1]], "a turn has neither role and content nor from and value (keys ['content'])"),
        (["q", "a"], "a turn is not an object (it is str)"),
        ("q", "'messages' is not JSON (Expecting value: 'q')"),
        ("3", "'messages' is not a list of turns (it is int)"),
        ('[{"role": "user", "role": "user"}]', "'messages': an object has a key twice ('role')"),
        ({"role": "user"}, "'messages' is not a list of turns (it is dict)"),
    ],
)
def test_turns_that_make_no_conversation_are_refused(turns, reason):
    assert refusal({"messages": turns}).startswith(reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "the columns fit no known format (columns: none"),
        ({"prompt": "q", "answer": "a"}, "the columns fit no known format (columns: prompt, answer"),
        ({"prompt": "q", "completion": TURNS[1:]}, "'completion' is not text (it is list)"),
        ({"prompt": TURNS[:1], "completion": "a"}, "'prompt' is not text (it is list)"),
        ({"prompt": "q", "completion": None}, "'completion' is null"),
        (ALPACA | {"input": 3}, "'input' is not text (it is int)"),
        (ALPACA | {"history": ["q", "a"]}, "'history' is not a list of pairs"),
        (ALPACA | {"history": [["q", None]]}, "'history' is null"),
        (MAGPIE | {"system": 1}, "'system' is not text (it is int)"),
        (QA | {"answer": " "}, "the response is empty"),
        (QA | {"answer": None}, "'answer' is null"),
        (QA | {"answer": 4}, "'answer' is not text (it is int)"),
        (QA | {"answer": "c #### 1 #### 2"}, "'####' does not occur exactly once (2 times)"),
        (QA | {"answer": "c ####  "}, "nothing after '####'"),
        ({"question": "", "answer": "c #### 1"}, "the prompt is empty"),
        ({"text": "a plain text"}, "'||' does not occur exactly once (0 times)"),
        ({"text": "q||c||d #### 1"}, "'||' does not occur exactly once (2 times)"),
        ({"text": "q||c"}, "'####' does not occur exactly once (0 times)"),
        ({"text": " ||c #### 1"}, "the prompt is empty"),
        ({"trajectory": "a plain text"}, "the trajectory holds neither 'Thought:' nor 'Action:'"),
    ],
)
def test_rows_that_fit_no_format_or_break_theirs_are_refused(row, reason):
    assert refusal(row).startswith(reason)


@pytest.mark.parametrize("value", [None, "", "  ", [1], {"a": 1}, True, float("nan")])
def test_a_reference_that_is_none_is_none_and_never_a_word(value):
    assert read(MAGPIE | {"answer": value}).answer is None


@pytest.mark.parametrize(
    ("value", "reason"), [([1], "neither text nor a number (it is list)"), ("\ud800", "lone surrogate (character 0)")]
)
def test_a_reference_the_user_asked_for_must_be_one(value, reason):
    found = refusal(MAGPIE | {"gold": value}, {"answer": "gold"})
    assert found.startswith("'gold'") and reason in found


@pytest.mark.parametrize(
    ("format", "columns", "message"),
    [
        ("sharegtp", {}, "unknown format 'sharegtp'; did you mean 'sharegpt'"),
        ("alpaca", {"response": "x"}, "format 'alpaca' has no field 'response'"),
        ("auto", {"instructions": "x"}, "no field 'instructions'; did you mean 'instruction'"),
        ("auto", {True: "x"}, "no field True; YAML reads a bare on, off, yes or no"),
        *(
            ("auto", {"response": column}, f"columns.response .* {re.escape(str(column))}")
            for column in (None, 1, ["a"])
        ),
    ],
)
def test_unknown_formats_and_fields_are_refused_with_the_nearest_name(format, columns, message):
    check_format("auto", {"instruction": "x", "messages": "y"})
    with pytest.raises(UserError, match=message):
        check_format(format, columns)
