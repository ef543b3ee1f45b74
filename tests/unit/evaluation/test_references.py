"""What the right answer of a row is: named, unwrapped, or found in its last turn; or refused with its place."""

import pytest
from evaluations_for_tests import TAGS, reply, run, trace

from cot_components.data.bad_rows import RowError
from cot_components.data.read.traces import read_traces
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import evaluate, reference_answer

CALL = '[{"name": "write", "arguments": {"text": "####"}}]'


@pytest.mark.parametrize(
    ("content", "named", "extractor", "reference"),
    [
        (reply("x", 5), "7", "answer_line", "7"),
        (reply("x", 5), None, "answer_line", "5"),
        (reply("x", 5), " . ", "answer_line", "5"),
        ("#### 1 3 9", None, "gsm8k", "1 3 9"),
        ("It is so.", None, "answer_line", None),
        ("Answer: .", None, "answer_line", None),
        ("a poem", r"So it is $\boxed{\frac{1}{2}}$.", "whole", r"\frac{1}{2}"),
        ("a poem", r"\boxed{1} or rather \boxed{{2}}", "whole", "{2}"),
        ("a poem", "6 * 7 = 42\n#### 42", "whole", "42"),
        ("a poem", "#### 1\n#### 42", "whole", "42"),
        ("a poem", "5 6 #### 1 3 9", "whole", "1 3 9"),
        ("a poem", "0.5", "whole", "0.5"),
        ("a poem", CALL, "whole", CALL),
    ],
)
def test_the_reference_is_what_the_data_names_else_what_its_last_turn_says(content, named, extractor, reference):
    assert reference_answer(trace(0, content, answer=named), TAGS, extractor) == reference


def test_a_thought_of_its_own_holds_no_reference():
    assert reference_answer(trace(0, "Answer: 5", thought="Answer: 4"), TAGS, "answer_line") == "5"


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("7", "7.0"),
        ("0.5", "1/2"),
        ("1e22", "10,000,000,000,000,000,000,000"),
        ("-3", "$-3"),
        ("true", None),
        ("1e400", None),
    ],
)
def test_references_that_are_numbers_in_json(tmp_path, written, right):
    """What is not a finite number is no reference, and becomes no word."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "q", "completion": "a poem", "answer": {written}}}\n')
    (example,) = run(list(read_traces(path)), [f"Answer: {right}"]).examples
    assert example.correct is (None if right is None else True)


@pytest.mark.parametrize("named", [r"\boxed{5", r"\boxed{ }", "so ####", "6\n#### "])
def test_a_reference_that_cannot_be_unwrapped_is_named_before_anything_is_generated(named):
    with pytest.raises(RowError, match="reference"):
        reference_answer(trace(0, "a poem", answer=named), TAGS, "whole")
    with pytest.raises(UserError, match=r"data\.jsonl:2: .*reference"):
        evaluate([trace(0, reply("x", 1)), trace(1, "a", answer=named)], pytest.fail, tags=TAGS, count_tokens=len)
