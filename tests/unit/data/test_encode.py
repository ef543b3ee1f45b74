"""Tokens, roles and counters are made together; a row is exact, fits, or is dropped."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import KINDS, make_tokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.rows.encode import EncodedRow, check_exact, encode_segments, encode_turns, fit
from cot_components.data.text.chat import Part, part_ids
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.roles import SUPERVISED_ROLES, Role


def spell(*pieces: tuple[Role, str | int]) -> EncodedRow:
    """A row with one token per letter."""
    texts = {text: [ord(c) for c in text] for _, text in pieces if isinstance(text, str)}
    return encode_segments([Part(role, text) for role, text in pieces], texts)


def row_of(prompt: int, thought: int, answer: int) -> EncodedRow:
    return spell(
        (Role.PROMPT, "p" * prompt),
        (Role.THINK_OPEN, 1000),
        (Role.THOUGHT, "abcdefghijklmnopqrstuvwxyz"[:thought]),
        (Role.THINK_CLOSE, 1001),
        (Role.ANSWER, "r" * answer),
    )


@pytest.fixture(scope="module")
def byte(tmp_path_factory):
    return make_tokenizer("byte", tmp_path_factory.mktemp("byte"))


def test_columns_of_a_row():
    row = row_of(2, 3, 1)
    P, O, T, C, A = Role.PROMPT, Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER  # noqa: E741
    assert row.tokens.tolist() == [112, 112, 1000, 97, 98, 99, 1001, 114]
    assert row.roles.tolist() == [P, P, O, T, T, T, C, A]
    assert row.counters.tolist() == [-1, -1, -1, 0, 1, 2, -1, -1]
    assert row.weights.tolist() == [1.0] * 8
    assert [column.dtype for column in row] == [np.int32, np.uint8, np.int32, np.float32]


def test_counters_run_on_over_all_thoughts_and_any_role_may_stand_between():
    row = spell(
        (Role.PROMPT, "p"),
        (Role.THOUGHT, "ab"),
        (Role.CALL, "c"),
        (Role.OBSERVATION, "o"),
        (Role.THOUGHT, "d"),
        (Role.ANSWER, ""),
        (Role.THOUGHT, "e"),
    )
    assert row.counters.tolist() == [-1, 0, 1, -1, -1, 2, 3]
    assert row.roles.tolist() == [0, 2, 2, 5, 6, 2, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_turns_is_the_turns_one_by_one(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    end = tokenizer.control[max(tokenizer.control)]
    turns = [
        [Part(Role.PROMPT, "Add the 12 things"), Part(Role.THOUGHT, "in a\n\n"), Part(Role.ANSWER, end)],
        [Part(Role.PROMPT, ""), Part(Role.THOUGHT, "in a\n\n"), Part(Role.ANSWER, "the 12")],
    ]
    together = encode_turns(turns, tokenizer)
    for parts, row in zip(turns, together, strict=True):
        slow = part_ids(parts, tokenizer)
        assert row.tokens.tolist() == slow
        check_exact(row, parts, tokenizer)
    assert len(together) == 2


def test_text_that_does_not_come_back_is_refused(byte):
    parts = [Part(Role.PROMPT, "P"), Part(Role.THOUGHT, "The Thought"), Part(Role.ANSWER, byte.control["<|end|>"])]
    lower = replace(byte, encode_plain=lambda texts: byte.encode_plain([text.lower() for text in texts]))
    (exact,), (lossy,) = encode_turns([parts], byte), encode_turns([parts], lower)
    check_exact(exact, parts, byte)
    with pytest.raises(RowError, match="does not give the supervised text back"):
        check_exact(lossy, parts, lower)
    only_the_prompt = [Part(Role.PROMPT, "The Prompt"), Part(Role.ANSWER, "a")]
    check_exact(encode_turns([only_the_prompt], lower)[0], only_the_prompt, lower)


def test_a_row_without_supervised_tokens_is_refused(byte):
    parts = [Part(Role.PROMPT, "p"), Part(Role.ANSWER, "")]
    with pytest.raises(RowError, match="nothing in the row is supervised"):
        check_exact(encode_turns([parts], byte)[0], parts, byte)


@pytest.mark.parametrize("too_long", ["drop", "cut_thought"])
def test_a_row_of_exactly_the_limit_stays_as_it_is(byte, too_long):
    row = row_of(4, 10, 3)
    for limit in (None, 19, 20):
        assert fit(row, max_seq_len=limit, too_long=too_long, tokenizer=byte) is row


def test_one_token_too_many_is_dropped(byte):
    with pytest.raises(RowError, match=r"longer than 18 tokens \(19 tokens\)"):
        fit(row_of(4, 10, 3), max_seq_len=18, too_long="drop", tokenizer=byte)


def plain_letters(byte: TextTokenizer) -> TextTokenizer:
    letters = {"decode_plain": lambda ids: "".join(map(chr, ids)), "control": {"<o>": 1000, "<c>": 1001}}
    return replace(byte, **letters, vocab_size=1002)


@given(prompt=st.integers(0, 6), thought=st.integers(0, 26), answer=st.integers(1, 6), limit=st.integers(2, 40))
def test_cutting_the_thought(byte, prompt, thought, answer, limit):
    row, tokenizer = row_of(prompt, thought, answer), plain_letters(byte)
    others = prompt + answer + 2
    if len(row.tokens) > limit and limit - others < 2:
        with pytest.raises(RowError, match=f"longer than {limit} tokens even without its thought"):
            fit(row, max_seq_len=limit, too_long="cut_thought", tokenizer=tokenizer)
        return
    cut = fit(row, max_seq_len=limit, too_long="cut_thought", tokenizer=tokenizer)
    assert len(cut.tokens) == min(limit, len(row.tokens))
    kept = [(int(t), int(r), int(c)) for t, r, c in zip(cut.tokens, cut.roles, cut.counters, strict=True)]
    whole = [(int(t), int(r), int(c)) for t, r, c in zip(row.tokens, row.roles, row.counters, strict=True)]
    assert [k for k in kept if k[1] != Role.THOUGHT] == [w for w in whole if w[1] != Role.THOUGHT]
    thoughts = [k for k in kept if k[1] == Role.THOUGHT]
    all_thoughts = [w for w in whole if w[1] == Role.THOUGHT]
    half = (len(thoughts) + 1) // 2
    assert thoughts == (all_thoughts[:half] + all_thoughts[len(all_thoughts) - (len(thoughts) - half) :])
    jumps = [n for n in range(1, len(thoughts)) if thoughts[n][2] != thoughts[n - 1][2] + 1]
    start = prompt + 1
    assert np.flatnonzero(cut.weights == 0).tolist() == [start + n for n in jumps]
    assert len(jumps) == (len(row.tokens) > limit)


def test_cutting_leaves_the_row_it_was_given(byte):
    row = row_of(4, 20, 3)
    fit(row, max_seq_len=15, too_long="cut_thought", tokenizer=plain_letters(byte))
    assert row.weights.all()


def test_the_longest_of_several_thoughts_is_cut(byte):
    thoughts = (Role.THOUGHT, "ab"), (Role.CALL, "c"), (Role.THOUGHT, "defghi")
    row = spell((Role.PROMPT, "p"), *thoughts, (Role.ANSWER, "r"))
    cut = fit(row, max_seq_len=8, too_long="cut_thought", tokenizer=plain_letters(byte))
    assert cut.counters.tolist() == [-1, 0, 1, -1, 2, 3, 7, -1]


@pytest.mark.parametrize("kind", ["byte", "llama3", "qwen2_5"])
def test_a_cut_leaves_whole_characters(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    thought = "\U0001f642\u4f60\u00e9x" * 8
    parts = [Part(Role.PROMPT, "p"), Part(Role.THOUGHT, thought), Part(Role.ANSWER, "r")]
    (row,) = encode_turns([parts], tokenizer)
    checked = 0
    for limit in range(10, len(row.tokens)):
        cut = fit(row, max_seq_len=limit, too_long="cut_thought", tokenizer=tokenizer)
        assert limit - 6 <= len(cut.tokens) <= limit
        inside = tokenizer.decode(cut.tokens[cut.roles == Role.THOUGHT])
        assert "\ufffd" not in inside
        jump = int(np.flatnonzero(cut.weights == 0)[0])
        head = tokenizer.decode(cut.tokens[1:jump])
        assert thought.startswith(head) and thought.endswith(inside[len(head) :])
        checked += 1
    assert checked > 20


def test_a_thought_that_begins_with_a_long_character(byte):
    """Four tokens each: room for less than one is no room, room for more is filled with whole ones."""
    parts = [Part(Role.PROMPT, "p"), Part(Role.THOUGHT, "\U0001f600" * 10), Part(Role.ANSWER, "r")]
    (row,) = encode_turns([parts], byte)
    with pytest.raises(RowError, match="even without its thought"):
        fit(row, max_seq_len=5, too_long="cut_thought", tokenizer=byte)
    cut = fit(row, max_seq_len=12, too_long="cut_thought", tokenizer=byte)
    assert byte.decode(cut.tokens) == "p" + "\U0001f600" * 2 + "r"


def test_supervised_roles_are_those_the_encoder_checks():
    assert set(SUPERVISED_ROLES) == {Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER, Role.CALL}
