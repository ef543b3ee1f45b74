"""The sequence `x S cot S #### answer S`, steps of thoughts, and the checks before training."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reading import reader

from cot_components.clock import Clock
from cot_components.data.generated.multiplication import draw_operands, multiplication_rows
from cot_components.data.read.traces import Message
from cot_components.data.rows.encode import encode_turns
from cot_components.data.rows.overlap import check_no_overlap, prompts_of
from cot_components.data.rows.prepare import prepare_rows
from cot_components.data.rows.store import Rows
from cot_components.data.text.icot_text import ICoTFormat, read_step_lists
from cot_components.evaluation.comparers import exact_match
from cot_components.evaluation.extract import gsm8k
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.roles import Role
from cot_components.schedules import Schedule
from cot_components.transforms.remove import Remove

TOKENIZER, END = compact_tokenizer().text, "<|endoftext|>"
PLAIN, LINES, EQUATIONS = (ICoTFormat(TOKENIZER, **steps) for steps in ({}, {"step_end": "\n"}, {"step_end": ">>"}))
QUESTION = Message("user", "1 2 * 3 4")
ANSWER = Message("assistant", "#### 8 0 4", thought="8 0 4 0")
SHARED = os.environ.get("COT_SHARED_DATA")


def encode(chat, answer, thought):
    turn = chat.turn([QUESTION, Message("assistant", f"#### {answer}", thought=thought)])
    return encode_turns([turn.prompt + turn.completion], TOKENIZER)[0]


def text_of(row, role):
    return TOKENIZER.decode(row.tokens[row.roles == role])


def removing(chat, stage):
    """All steps up to this stage are removed."""
    schedule = Schedule(ticks_per_epoch=1, per_epoch=0, start=stage)
    return Remove(schedule=schedule, unit="step", step_ends=chat.step_ends, smoothing=float("inf"))


def test_a_row_is_the_released_sequence_with_its_roles():
    row = encode(PLAIN, "8 0 4", "8 0 4 0")
    parts = {
        Role.PROMPT: [" 1", " 2", " *", " 3", " 4", " ", END],
        Role.THOUGHT: [" 8", " 0", " 4", " 0", " "],
        Role.THINK_CLOSE: [END],
        Role.ANSWER: [" ####", " 8", " 0", " 4", " ", END],
    }
    expected = [(text, role) for role, texts in parts.items() for text in texts]
    assert [(TOKENIZER.decode([i]), role) for i, role in zip(row.tokens.tolist(), row.roles, strict=True)] == expected
    assert row.counters.tolist() == [-1] * 7 + [0, 1, 2, 3, 4] + [-1] * 7
    written = row.tokens[7:].tolist()
    assert row.tokens[:7].tolist() == PLAIN.prompt_ids([QUESTION])
    assert sum(i in PLAIN.stop_ids for i in written) == PLAIN.stops_per_answer and written[-1] in PLAIN.stop_ids


def test_an_empty_thought_is_the_blanks_around_it():
    row = encode(PLAIN, "2,125", "")
    assert (text_of(row, Role.THOUGHT), text_of(row, Role.ANSWER)) == ("  ", f" #### 2125 {END}")


def test_a_begin_token_of_its_own_opens_the_row():
    with_begin = replace(TOKENIZER.with_control({"<s>": 290}), bos_id=290)
    assert ICoTFormat(with_begin).prompt_ids([QUESTION])[0] == 290
    assert PLAIN.prompt_ids([QUESTION])[0] != TOKENIZER.eos_id


def test_steps_end_where_their_texts_end():
    thought = "Tom is a cat.\nEvery cat is a pet.\nEvery pet is loved."
    rows = Rows.of([encode(LINES, "yes", thought)], [0])
    lefts = [f" {thought} ", "Every cat is a pet.\nEvery pet is loved. ", "Every pet is loved. ", ""]
    for stage, expected in enumerate(lefts):
        assert text_of(removing(LINES, stage)(rows.flat([0]), Clock(0, 0)), Role.THOUGHT) == expected
    assert removing(LINES, 0).units(rows).tolist() == [3]


@pytest.mark.parametrize(
    ("thought", "steps"), [("<<2*3=6>> <<6*2=12>>", 2), ("<<2*3=6>>", 1), ("<<2*3=6>> so 6", 2), ("", 1)]
)
def test_the_blank_behind_the_last_step_is_no_step(thought, steps):
    row = encode(EQUATIONS, "12", thought)
    rows, remove = Rows.of([row], [0]), removing(EQUATIONS, steps)
    assert text_of(row, Role.THOUGHT).strip() == thought
    assert remove.units(rows).tolist() == [steps]
    assert text_of(remove(rows.flat([0]), Clock(0, 0)), Role.THOUGHT) == ""


@pytest.mark.parametrize("answer", ["2,125", "-1,234,567.5", "$1,000", "1, 2", "1,00,000", "1,2,3", "2,125 cups"])
def test_what_a_row_teaches_is_its_reference(answer):
    taught = text_of(encode(PLAIN, answer, ""), Role.ANSWER).replace(END, "")
    assert exact_match(gsm8k(taught), answer)


def test_settings_are_part_of_the_fingerprint():
    assert PLAIN.fingerprint() == ICoTFormat(compact_tokenizer().text).fingerprint() != LINES.fingerprint()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((QUESTION, Message("assistant", "#### 1")), "no thought beside the answer"),
        ((Message("system", "Be brief."), QUESTION, ANSWER), "one question and one answer"),
        ((QUESTION, ANSWER, QUESTION, ANSWER), "one question and one answer"),
    ],
)
def test_conversations_that_do_not_fit_are_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        PLAIN.turn(messages)


def test_tokenizers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no end-of-text token"):
        ICoTFormat(replace(TOKENIZER, eos_id=None))
    with pytest.raises(ValueError, match="must be one token"):
        ICoTFormat(TOKENIZER, step_end="\n\n")


STEPS = [("Is Tom a pet?", ["Tom is a cat.", "Every cat is a pet."], "Yes."), ("Is it?", ["It is."], "Yes.")]
STEPS.append(("Is Ann a dog?", [], "No."))


def test_step_lists_lose_one_step_at_a_time(tmp_path):
    path = Path(SHARED) / "prosqa/prosqa_valid.json" if SHARED else tmp_path / "steps.json"
    if not SHARED:
        path.write_text(json.dumps([dict(zip(("question", "steps", "answer"), row, strict=True)) for row in STEPS]))
    raw = json.loads(path.read_text())
    rows, remove = prepare_rows(reader(read_step_lists(path)), LINES).rows, removing(LINES, 1)
    assert remove.units(rows).tolist() == [max(len(row["steps"]), 1) for row in raw]
    for i, row in enumerate(raw):
        left = remove(rows.flat(np.array([i])), Clock(0, 0))
        assert text_of(left, Role.THOUGHT).strip() == "\n".join(row["steps"][1:])
    assert len(raw) == (300 if SHARED else 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", ": not a readable JSON file"),
        pytest.param("[" * 100_000, ": not a readable JSON file", id="nested deep"),
        ("{}", ": not a list of rows"),
        ("[]", ": not a list of rows"),
        ("[1]", ":row 1: a row is not an object"),
        ('[{"question": "q", "steps": [], "answer": ""}]', ":row 1: question or answer"),
        ('[{"question": null, "steps": [], "answer": "a"}]', ":row 1: question or answer"),
        ('[{"question": "q", "steps": "s", "answer": "a"}]', ":row 1: steps is not a list"),
        ('[{"question": "q", "steps": ["s", 1], "answer": "a"}]', ":row 1: steps is not a list"),
        ('[{"question": "q", "steps": ["s"], "answer": "a", "answer": "b"}]', ": an object has a key twice"),
        ('[{"question": "q", "steps": ["s\\nt"], "answer": "a"}]', ":row 1: a step holds"),
    ],
)
def test_bad_step_lists_are_named(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=rf"bad\.json{message}"):
        read_step_lists(tmp_path / "bad.json")


def test_a_test_question_among_the_training_questions_is_named():
    train = multiplication_rows(*draw_operands(3, 500, seed=1), PLAIN)
    test = multiplication_rows(*draw_operands(3, 100, seed=2, split="held_out"), PLAIN)
    check_no_overlap(train, prompts_of(test))
    with pytest.raises(
        ValueError, match="row 321 of the test data has the same question as row 321 of the training data"
    ):
        check_no_overlap(train, prompts_of(Rows.concatenate([test, train.select([321])])))
