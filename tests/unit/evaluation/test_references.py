"""What the right answer of a row is: named, unwrapped, or found in its last turn; or refused with its place."""

import pytest

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace, read_traces
from cot_components.data.text.segments import Tags
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import evaluate, reference_answer

TAGS = Tags()


def reply(thought, answer):
    return f"<think>{thought}</think>\n\nAnswer: {answer}"


def trace(i, content, *, answer=None, thought=None):
    return Trace(i, (Message("user", "?"), Message("assistant", content, thought)), f"data.jsonl:{i + 1}", answer)


def run(traces, completions, **options):
    return evaluate(traces, lambda prompts: completions, tags=TAGS, count_tokens=len, **options)


def test_the_reference_is_what_the_data_names_else_what_its_last_turn_says():
    assert reference_answer(trace(0, reply("x", 5), answer="7"), TAGS, "answer_line") == "7"
    assert reference_answer(trace(0, reply("x", 5)), TAGS, "answer_line") == "5"
    assert reference_answer(trace(0, "Answer: 5", thought="Answer: 4"), TAGS, "answer_line") == "5"
    assert reference_answer(trace(0, "#### 1 3 9", thought="5 6"), TAGS, "gsm8k") == "1 3 9"
    assert reference_answer(trace(0, reply("x", 5), answer=" . "), TAGS, "answer_line") == "5"
    assert reference_answer(trace(0, "It is so."), TAGS, "answer_line") is None
    assert reference_answer(trace(0, "Answer: ."), TAGS, "answer_line") is None


@pytest.mark.parametrize(
    ("named", "reference"),
    [
        (r"So it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} or rather \boxed{{2}}", "{2}"),
        ("6 * 7 = 42\n#### 42", "42"),
        ("#### 1\n#### 42", "42"),
        ("5 6 #### 1 3 9", "1 3 9"),
        ("0.5", "0.5"),
        ('[{"name": "write", "arguments": {"text": "####"}}]', '[{"name": "write", "arguments": {"text": "####"}}]'),
    ],
)
def test_references_are_unwrapped(named, reference):
    assert reference_answer(trace(0, "a poem", answer=named), TAGS, "whole") == reference
    assert run([trace(0, "a poem", answer=named)], [named], extractor="whole").answer_accuracy in (0.0, 1.0)


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

    def generate(prompts):
        raise AssertionError("generated")

    with pytest.raises(UserError, match=r"data\.jsonl:2: .*reference"):
        evaluate([trace(0, reply("x", 1)), trace(1, "a", answer=named)], generate, tags=TAGS, count_tokens=len)
