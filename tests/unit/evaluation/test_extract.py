"""Answers are found where they are written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lookalikes import is_real, shared_data

from cot_components.data.read.traces import read_traces
from cot_components.data.text.segments import Tags
from cot_components.evaluation.comparers import exact_match
from cot_components.evaluation.evaluate import reference_answer
from cot_components.evaluation.extract import (
    EXTRACTORS,
    boxed,
    extract_answer,
    find_extractor,
    format_ok,
    split_completion,
)

TAGS = Tags()
FOUND = {
    "answer_line": [
        *(("So it is 5.\nAnswer: 42", "42"), ("Answer: 1\nNo. Answer: 42.", "42."), ("Answer\uff1a 42", "42")),
        *(("The capital of Canada is Ottawa. Answer: Ottawa.", "Ottawa."), ("**Answer:** 42", "42")),
        *(("**Answer**: 42 apples\nBye", "42 apples"), ("### Final Answer:\n\n**Answer: Dan**", "Dan")),
        *(("Answer:\n\n  42\nas shown", "42"), ("the final ANSWER is: x = 3", "x = 3"), ("Answer: ", None)),
        *(("Answer:  ** \n", None), ("The answer 42", None), ("Nonanswer: 42", None)),
    ],
    "boxed": [
        *((r"so \boxed{42}.", "42"), (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"), ("42", None)),
        *((r"\boxed{\{1, 2\}}", r"\{1, 2\}"), (r"\boxed{\frac{1}{2}", None), (r"\boxed{ }", None)),
        *((r"\boxed{5} and \boxed{6", None), (r"\boxed {5} or \fbox{{6}}", "{6}"), (r"\boxed{a \\}", r"a \\")),
    ],
    "gsm8k": [
        *(("#### 1\n####", None), ("6 * 7 = 42\n#### 42", "42"), ("#### 1\n####2 \n", "2"), ("####", None)),
        ("5 6 #### 1 3 9", "1 3 9"),
    ],
    "last_number": [
        *(("from 3 to 1,234.50 dollars.", "1,234.50"), ("it is -7.", "-7"), ("10-5 is 5 and 8-3", None)),
        *(("x = \u22125, so", "-5"), ("about .5", ".5"), ("1,2,3", None), ("none", None)),
    ],
    "whole": [("  Ottawa \n", "Ottawa"), (" \n", None)],
}


@pytest.mark.parametrize(("name", "text", "answer"), [(name, *case) for name, cases in FOUND.items() for case in cases])
def test_extractors(name, text, answer):
    assert EXTRACTORS[name](text) == answer


@given(st.text())
def test_extractors_take_any_text(text):
    for extractor in EXTRACTORS.values():
        found = extractor(text)
        assert found is None or (found == found.strip() and found)


def test_names_lists_and_functions_name_extractors():
    assert find_extractor("boxed")(r"Answer: 1, \boxed{2}") == "2"
    first = find_extractor(["boxed", "answer_line", "last_number"])
    texts = [r"Answer: 1, \boxed{2}", "Answer: 1 of 3", "1 of 3", "none"]
    assert [first(text) for text in texts] == ["2", "1 of 3", "3", None]
    assert find_extractor(str.upper)("x") == "X"


@pytest.mark.parametrize(
    ("text", "thought", "answer", "well_formed"),
    [
        ("<think>a</think>b", "a", "b", True),
        ("<think></think>b", "", "b", True),
        (" <think>a</think>b", "a", "b", True),
        ("<think>a</think> \n", "a", " \n", False),
        ("<think>a", "a", None, False),
        ("b", None, "b", False),
        ("", None, "", False),
        ("a</think>b", "a", "b", False),
        ("<think>a</think>b</think>c", "a</think>b", "c", False),
        ("<think>a<think>b</think>c", "a<think>b", "c", False),
        ("</think>a<think>b", "", "a<think>b", False),
        ("<THINK>a</THINK>b", None, "<THINK>a</THINK>b", False),
    ],
)
def test_every_shape_of_a_completion(text, thought, answer, well_formed):
    assert split_completion(text, TAGS) == (thought, answer)
    assert format_ok(text, TAGS) is well_formed


def test_an_answer_inside_the_thought_is_not_the_answer():
    assert extract_answer("<think>Answer: 1</think>Answer: 2", TAGS) == "2"
    assert extract_answer("<think>Answer: 1</think>It is 2.", TAGS) is None
    assert extract_answer("<think>Answer: 1", TAGS) is None
    assert extract_answer("<think>a</think>Answer: 1</think>Answer: 2", TAGS) == "2"
    assert extract_answer("Answer: 1", TAGS) == "1"
    assert extract_answer("<Thought>x</Thought> 42", Tags("<Thought>", "</Thought>"), "whole") == "42"


def test_references_of_real_traces(tmp_path):
    """In graded data the answer line of almost every trace that names a reference is found, and mostly equal to it."""
    traces = list(read_traces(shared_data(tmp_path) / "think_qwen3_small" / "messages.jsonl", strict=False))
    graded = [trace for trace in traces if trace.answer]
    found = [extract_answer(trace.messages[-1].content, TAGS) for trace in graded]
    matches = sum(exact_match(answer, trace.answer) for answer, trace in zip(found, graded, strict=True))
    assert graded and all(reference_answer(trace, TAGS, "answer_line") == trace.answer for trace in graded)
    if is_real():
        assert (len(traces), len(graded), sum(answer is None for answer in found), matches) == (329, 266, 0, 212)


def test_every_answer_of_gsm8k_and_math_is_found(tmp_path):
    rows = list(read_traces(shared_data(tmp_path) / "gsm8k" / "train.jsonl", format="gsm8k", strict=False))
    found = [extract_answer(trace.messages[-1].content, TAGS, "gsm8k") for trace in rows]
    assert rows and all(exact_match(answer, trace.answer) for answer, trace in zip(found, rows, strict=True))
    path = shared_data(tmp_path) / "math" / "math_test_minus500.jsonl"
    solutions = [rf"Thus $x = \boxed{{\frac{{{n}}}{{7}}}}$." for n in range(20)]
    if path.exists():
        solutions = [json.loads(line)["solution"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert solutions and all(boxed(solution) for solution in solutions)
