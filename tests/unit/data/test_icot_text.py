"""The sequence `x S cot S #### answer S`, steps of thoughts, and the checks before training."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cot_components.clock import Clock
from cot_components.data.generated.multiplication import draw_operands, multiplication_rows
from cot_components.data.read.traces import Message
from cot_components.data.rows.encode import encode_turns
from cot_components.data.rows.overlap import check_no_overlap, prompts_of
from cot_components.data.rows.prepare import prepare_rows
from cot_components.data.rows.store import Rows
from cot_components.data.text.icot_text import ICoTFormat, read_step_lists
from cot_components.evaluation.extract import exact_match, gsm8k
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.roles import Role
from cot_components.schedules import Schedule
from cot_components.transforms.remove import Remove

QUESTION = Message("user", "1 2 * 3 4")
ANSWER = Message("assistant", "#### 8 0 4", thought="8 0 4 0")


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer():
    return compact_tokenizer().text


def encode(chat: ICoTFormat, *messages: Message):
    turn = chat.turn(messages)
    return encode_turns([turn.prompt + turn.completion], chat.tokenizer)[0]


def test_a_row_is_the_released_sequence_with_its_roles(tokenizer):
    row = encode(ICoTFormat(tokenizer), QUESTION, ANSWER)
    pieces = [tokenizer.decode([i]) for i in row.tokens.tolist()]
    end = "<|endoftext|>"
    expected = [
        *[(text, Role.PROMPT) for text in (" 1", " 2", " *", " 3", " 4", " ", end)],
        *[(text, Role.THOUGHT) for text in (" 8", " 0", " 4", " 0", " ")],
        (end, Role.THINK_CLOSE),
        *[(text, Role.ANSWER) for text in (" ####", " 8", " 0", " 4", " ", end)],
    ]
    assert list(zip(pieces, row.roles.tolist(), strict=True)) == expected
    assert row.counters.tolist() == [-1] * 7 + [0, 1, 2, 3, 4] + [-1] * 7


def test_the_prompt_is_the_beginning_of_the_row(tokenizer):
    chat = ICoTFormat(tokenizer)
    row, prompt = encode(chat, QUESTION, ANSWER), chat.prompt_ids([QUESTION])
    assert row.tokens[: len(prompt)].tolist() == prompt
    written = row.tokens[len(prompt) :].tolist()
    assert sum(i in chat.stop_ids for i in written) == chat.stops_per_answer and written[-1] in chat.stop_ids


def test_an_empty_thought_is_the_blanks_around_it(tokenizer):
    row = encode(ICoTFormat(tokenizer), QUESTION, Message("assistant", "#### 2,125", thought=""))
    assert tokenizer.decode(row.tokens[row.roles == Role.THOUGHT]) == "  "
    assert tokenizer.decode(row.tokens[row.roles == Role.ANSWER]) == " #### 2125 <|endoftext|>"


def test_a_begin_token_of_its_own_opens_the_row(tokenizer):
    from dataclasses import replace

    with_begin = replace(tokenizer.with_control({"<s>": 290}), bos_id=290)
    assert ICoTFormat(with_begin).prompt_ids([QUESTION])[0] == 290
    assert ICoTFormat(tokenizer).prompt_ids([QUESTION])[0] != tokenizer.eos_id


def test_steps_end_where_their_texts_end(tokenizer):
    chat = ICoTFormat(tokenizer, step_end="\n")
    thought = "Tom is a cat.\nEvery cat is a pet.\nEvery pet is loved."
    row = encode(chat, QUESTION, Message("assistant", "#### yes", thought=thought))
    rows = Rows.of([row], [0])
    lefts = [f" {thought} ", "Every cat is a pet.\nEvery pet is loved. ", "Every pet is loved. ", ""]
    for stage, expected in enumerate(lefts):
        schedule = Schedule(ticks_per_epoch=1, per_epoch=0, start=stage)
        remove = Remove(schedule=schedule, unit="step", step_ends=chat.step_ends, smoothing=float("inf"))
        left = remove(rows.flat([0]), Clock(0, 0))
        assert tokenizer.decode(left.tokens[left.roles == Role.THOUGHT]) == expected
    assert remove.units(rows).tolist() == [3]


@pytest.mark.parametrize(
    ("thought", "steps"), [("<<2*3=6>> <<6*2=12>>", 2), ("<<2*3=6>>", 1), ("<<2*3=6>> so 6", 2), ("", 1)]
)
def test_the_blank_behind_the_last_step_is_no_step(tokenizer, thought, steps):
    chat = ICoTFormat(tokenizer, step_end=">>")
    row = encode(chat, QUESTION, Message("assistant", "#### 12", thought=thought))
    schedule = Schedule(ticks_per_epoch=1, per_epoch=0, start=steps)
    remove = Remove(schedule=schedule, unit="step", step_ends=chat.step_ends, smoothing=float("inf"))
    assert tokenizer.decode(row.tokens[row.roles == Role.THOUGHT]).strip() == thought
    assert remove.units(Rows.of([row], [0])).tolist() == [steps]
    assert not (remove(Rows.of([row], [0]).flat([0]), Clock(0, 0)).roles == Role.THOUGHT).any()


@pytest.mark.parametrize("answer", ["2,125", "-1,234,567.5", "$1,000", "1, 2", "1,00,000", "1,2,3", "2,125 cups"])
def test_what_a_row_teaches_is_its_reference(tokenizer, answer):
    row = encode(ICoTFormat(tokenizer), QUESTION, Message("assistant", f"#### {answer}", thought=""))
    taught = tokenizer.decode(row.tokens[row.roles == Role.ANSWER]).replace("<|endoftext|>", "")
    assert exact_match(gsm8k(taught), answer)


def test_settings_are_part_of_the_fingerprint(tokenizer):
    assert ICoTFormat(tokenizer).fingerprint() == ICoTFormat(compact_tokenizer().text).fingerprint()
    assert ICoTFormat(tokenizer).fingerprint() != ICoTFormat(tokenizer, step_end="\n").fingerprint()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((QUESTION, Message("assistant", "#### 1")), "no thought beside the answer"),
        ((Message("system", "Be brief."), QUESTION, ANSWER), "one question and one answer"),
        ((QUESTION, ANSWER, QUESTION, ANSWER), "one question and one answer"),
    ],
)
def test_conversations_that_do_not_fit_are_refused(tokenizer, messages, message):
    with pytest.raises(ValueError, match=message):
        ICoTFormat(tokenizer).turn(messages)


def test_tokenizers_that_do_not_fit_are_refused(tokenizer):
    from dataclasses import replace

    with pytest.raises(ValueError, match="no end-of-text token"):
        ICoTFormat(replace(tokenizer, eos_id=None))
    with pytest.raises(ValueError, match="must be one token"):
        ICoTFormat(tokenizer, step_end="\n\n")


LOOKALIKE_STEPS = [
    {
        "question": "Tom is a cat. Is Tom a pet?",
        "steps": ["Tom is a cat.", "Every cat is a pet."],
        "answer": "Tom is a pet.",
    },
    {"question": "Is Ann a dog?", "steps": ["Ann is a dog."], "answer": "Ann is a dog."},
    {"question": "Is it?", "steps": [], "answer": "It is."},
]


def step_list(tmp_path: Path) -> Path:
    if "COT_SHARED_DATA" in os.environ:
        return Path(os.environ["COT_SHARED_DATA"]) / "prosqa" / "prosqa_valid.json"
    (tmp_path / "steps.json").write_text(json.dumps(LOOKALIKE_STEPS))
    return tmp_path / "steps.json"


def test_step_lists_lose_one_step_at_a_time(tokenizer, tmp_path):
    path = step_list(tmp_path)
    raw, traces = json.loads(path.read_text()), read_step_lists(path)

    def read(report):
        report.read += len(traces)
        return traces

    chat = ICoTFormat(tokenizer, step_end="\n")
    rows = prepare_rows(read, chat).rows
    schedule = Schedule(ticks_per_epoch=1, per_epoch=0, start=1)
    remove = Remove(schedule=schedule, unit="step", step_ends=chat.step_ends, smoothing=float("inf"))
    assert remove.units(rows).tolist() == [max(len(row["steps"]), 1) for row in raw]
    left = remove(rows.flat(np.arange(len(rows))), Clock(0, 0))
    checked = 0
    for b, row in enumerate(raw):
        here = slice(left.row_start[b], left.row_start[b + 1])
        text = tokenizer.decode(left.tokens[here][left.roles[here] == Role.THOUGHT])
        assert text.strip() == "\n".join(row["steps"][1:])
        checked += 1
    assert checked == (300 if "COT_SHARED_DATA" in os.environ else 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"bad\.json: not a readable JSON file"),
        pytest.param("[" * 100_000, r"bad\.json: not a readable JSON file", id="nested deep"),
        ("{}", r"bad\.json: not a list of rows"),
        ("[]", r"bad\.json: not a list of rows"),
        ("[1]", r"bad\.json:row 1: a row is not an object"),
        ('[{"question": "q", "steps": [], "answer": ""}]', r"bad\.json:row 1: question or answer"),
        ('[{"question": null, "steps": [], "answer": "a"}]', r"bad\.json:row 1: question or answer"),
        ('[{"question": "q", "steps": "s", "answer": "a"}]', r"bad\.json:row 1: steps is not a list"),
        ('[{"question": "q", "steps": ["s", 1], "answer": "a"}]', r"bad\.json:row 1: steps is not a list"),
        ('[{"question": "q", "steps": ["s"], "answer": "a", "answer": "b"}]', r"bad\.json: a key stands twice"),
        ('[{"question": "q", "steps": ["s\\nt"], "answer": "a"}]', r"bad\.json:row 1: a step holds"),
    ],
)
def test_bad_step_lists_are_named(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_step_lists(tmp_path / "bad.json")


def test_a_test_question_among_the_training_questions_is_named(tokenizer):
    chat = ICoTFormat(tokenizer)
    train = multiplication_rows(*draw_operands(3, 500, seed=1), chat)
    test = multiplication_rows(*draw_operands(3, 100, seed=2, split="held_out"), chat)
    check_no_overlap(train, prompts_of(test))
    leaking = Rows.concatenate([test, train.select([321])])
    with pytest.raises(ValueError, match="row 321 of the test data asks what row 321 of the training data asks"):
        check_no_overlap(train, prompts_of(leaking))
