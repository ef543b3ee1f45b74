"""Tokens, roles and counters are made together, by parts or in one go; a row is exact, fits, or is dropped."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from chats import PLAIN, ask, chat
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, make_tokenizer, write_like

from cot_components.data.bad_rows import RowError
from cot_components.data.rows.encode import (
    EncodedRow,
    check_exact,
    encode_in_one_go,
    encode_segments,
    encode_turns,
    fit,
)
from cot_components.data.text.chat import Part, Turn, part_ids
from cot_components.data.text.text_tokenizer import places_by_bytes
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.roles import SUPERVISED_ROLES, Role

END = "<|end|>"


def spell(*pieces):
    """A row with one token per letter."""
    texts = {text: [ord(c) for c in text] for _, text in pieces if isinstance(text, str)}
    return encode_segments([Part(role, text) for role, text in pieces], texts)


def row_of(prompt, thought, answer):
    return spell(
        *((Role.PROMPT, "p" * prompt), (Role.THINK_OPEN, 1000)),
        *(
            (Role.THOUGHT, "abcdefghijklmnopqrstuvwxyz"[:thought]),
            (Role.THINK_CLOSE, 1001),
            (Role.ANSWER, "r" * answer),
        ),
    )


def parts_of(thought):
    return [Part(Role.PROMPT, "p"), Part(Role.THOUGHT, thought), Part(Role.ANSWER, "r")]


def encode(turn, tokenizer):
    (row,) = encode_in_one_go([turn], tokenizer)
    assert isinstance(row, EncodedRow), row
    return row


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    return read_hf_tokenizer(write_like("llama3", tmp_path_factory.mktemp("llama3")))


@pytest.fixture(scope="module")
def letters(byte):
    texts = {"decode_plain": lambda ids: "".join(map(chr, ids)), "control": {"<o>": 1000, "<c>": 1001}}
    return replace(byte, **texts, vocab_size=1002)


@pytest.fixture(scope="module")
def lower(byte):
    """Writes every text in small letters."""
    return replace(byte, encode_plain=lambda texts: byte.encode_plain([text.lower() for text in texts]))


def test_columns_of_a_row():
    row = row_of(2, 3, 1)
    P, O, T, C, A = Role.PROMPT, Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER  # noqa: E741
    assert row.tokens.tolist() == [112, 112, 1000, 97, 98, 99, 1001, 114]
    assert row.roles.tolist() == [P, P, O, T, T, T, C, A]
    assert row.counters.tolist() == [-1, -1, -1, 0, 1, 2, -1, -1]
    assert row.weights.tolist() == [1.0] * 8
    assert [column.dtype for column in row] == [np.int32, np.uint8, np.int32, np.float32]
    assert set(SUPERVISED_ROLES) == {O, T, C, A, Role.CALL}


def test_counters_run_on_over_all_thoughts_and_any_role_may_stand_between():
    roles = (Role.PROMPT, Role.THOUGHT, Role.CALL, Role.OBSERVATION, Role.THOUGHT, Role.ANSWER, Role.THOUGHT)
    row = spell(*zip(roles, ("p", "ab", "c", "o", "d", "", "e"), strict=True))
    assert row.counters.tolist() == [-1, 0, 1, -1, -1, 2, 3]
    assert row.roles.tolist() == [0, 2, 2, 5, 6, 2, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_turns_is_the_turns_one_by_one(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    end, thought = tokenizer.control[max(tokenizer.control)], Part(Role.THOUGHT, "in a\n\n")
    turns = [
        [Part(Role.PROMPT, "Add the 12 things"), thought, Part(Role.ANSWER, end)],
        [Part(Role.PROMPT, ""), thought, Part(Role.ANSWER, "the 12")],
    ]
    for parts, row in zip(turns, encode_turns(turns, tokenizer), strict=True):
        assert row.tokens.tolist() == part_ids(parts, tokenizer)
        check_exact(row, parts, tokenizer)


def test_text_that_does_not_come_back_is_refused(byte, lower):
    parts = [Part(Role.PROMPT, "P"), Part(Role.THOUGHT, "The Thought"), Part(Role.ANSWER, byte.control[END])]
    check_exact(encode_turns([parts], byte)[0], parts, byte)
    with pytest.raises(RowError, match="does not decode the supervised text back"):
        check_exact(encode_turns([parts], lower)[0], parts, lower)
    only_the_prompt = [Part(Role.PROMPT, "The Prompt"), Part(Role.ANSWER, "a")]
    check_exact(encode_turns([only_the_prompt], lower)[0], only_the_prompt, lower)
    nothing = [Part(Role.PROMPT, "p"), Part(Role.ANSWER, "")]
    with pytest.raises(RowError, match="nothing in the row is supervised"):
        check_exact(encode_turns([nothing], byte)[0], nothing, byte)


def test_a_row_stays_as_it_is_up_to_the_limit_and_is_dropped_beyond(byte):
    row = row_of(4, 10, 3)
    for limit, too_long in itertools.product((None, 19, 20), ("drop", "cut_thought")):
        assert fit(row, max_seq_len=limit, too_long=too_long, tokenizer=byte) is row
    with pytest.raises(RowError, match=r"longer than 18 tokens \(19 tokens\)"):
        fit(row, max_seq_len=18, too_long="drop", tokenizer=byte)


@given(prompt=st.integers(0, 6), thought=st.integers(0, 26), answer=st.integers(1, 6), limit=st.integers(2, 40))
def test_cutting_the_thought(letters, prompt, thought, answer, limit):
    row = row_of(prompt, thought, answer)
    others = prompt + answer + 2
    if len(row.tokens) > limit and limit - others < 2:
        with pytest.raises(RowError, match=f"longer than {limit} tokens even without its thought"):
            fit(row, max_seq_len=limit, too_long="cut_thought", tokenizer=letters)
        return
    cut = fit(row, max_seq_len=limit, too_long="cut_thought", tokenizer=letters)
    assert len(cut.tokens) == min(limit, len(row.tokens)) and row.weights.all()
    kept, whole = (list(zip(*(column.tolist() for column in one[:3]), strict=True)) for one in (cut, row))
    assert [k for k in kept if k[1] != Role.THOUGHT] == [w for w in whole if w[1] != Role.THOUGHT]
    thoughts, all_thoughts = ([one for one in some if one[1] == Role.THOUGHT] for some in (kept, whole))
    half = (len(thoughts) + 1) // 2
    assert thoughts == (all_thoughts[:half] + all_thoughts[len(all_thoughts) - (len(thoughts) - half) :])
    jumps = [n for n in range(1, len(thoughts)) if thoughts[n][2] != thoughts[n - 1][2] + 1]
    assert np.flatnonzero(cut.weights == 0).tolist() == [prompt + 1 + n for n in jumps]
    assert len(jumps) == (len(row.tokens) > limit)


def test_the_longest_of_several_thoughts_is_cut(letters):
    thoughts = (Role.THOUGHT, "ab"), (Role.CALL, "c"), (Role.THOUGHT, "defghi")
    row = spell((Role.PROMPT, "p"), *thoughts, (Role.ANSWER, "r"))
    cut = fit(row, max_seq_len=8, too_long="cut_thought", tokenizer=letters)
    assert cut.counters.tolist() == [-1, 0, 1, -1, 2, 3, 7, -1]


@pytest.mark.parametrize("kind", ["byte", "llama3", "qwen2_5"])
def test_a_cut_leaves_whole_characters(kind, tmp_path):
    tokenizer, thought = make_tokenizer(kind, tmp_path), "\U0001f642\u4f60\u00e9x" * 8
    (row,) = encode_turns([parts_of(thought)], tokenizer)
    assert len(row.tokens) > 30
    for limit in range(10, len(row.tokens)):
        cut = fit(row, max_seq_len=limit, too_long="cut_thought", tokenizer=tokenizer)
        assert limit - 6 <= len(cut.tokens) <= limit
        inside = tokenizer.decode(cut.tokens[cut.roles == Role.THOUGHT])
        head = tokenizer.decode(cut.tokens[1 : int(np.flatnonzero(cut.weights == 0)[0])])
        assert "\ufffd" not in inside and thought.startswith(head) and thought.endswith(inside[len(head) :])


def test_a_thought_that_begins_with_a_long_character(byte):
    """Four tokens each: room for less than one is no room, room for more is filled with whole ones."""
    (row,) = encode_turns([parts_of("\U0001f600" * 10)], byte)
    with pytest.raises(RowError, match="even without its thought"):
        fit(row, max_seq_len=5, too_long="cut_thought", tokenizer=byte)
    cut = fit(row, max_seq_len=12, too_long="cut_thought", tokenizer=byte)
    assert byte.decode(cut.tokens) == "p" + "\U0001f600" * 2 + "r"


def test_a_token_that_holds_any_of_a_tag_is_the_tag_s(llama3):
    row = encode(chat(llama3).turn(ask("q", "<think>\n12 + 7 = 19.</think>\n\nAnswer: 19")), llama3)
    shown = [(Role(r).label, llama3.decode([t])) for t, r in zip(row.tokens.tolist(), row.roles, strict=True)]
    assert {("think_open", ">\n"), ("think_close", ".</"), ("think_close", ">\n\n")} < set(shown)
    assert ("thought", "\n") not in shown
    assert row.counters.max() + 1 == (row.roles == Role.THOUGHT).sum() > 0


def test_the_prompt_ends_where_inference_s_does(llama3):
    """`assistant` and two line feeds, then an answer that begins with one: three would be other tokens."""
    source = PLAIN.replace("<|assistant|>", "<|assistant|>\n").replace("<|{{ m.role }}|>", "<|{{ m.role }}|>\n")
    format = chat(llama3, source)
    row, prompt = encode(format.turn(ask("q", "\na")), llama3), format.prompt_ids(ask("q"))
    assert row.tokens[: len(prompt)].tolist() == prompt
    assert llama3.decode(row.tokens[len(prompt) :]) == f"\na{END}"
    assert set(row.roles[: len(prompt)]) == {Role.PROMPT} and set(row.roles[len(prompt) :]) == {Role.ANSWER}
    whole = llama3.encode_rendered([f"<|user|>\nq{END}<|assistant|>\n\na{END}"])[0].ids
    assert len(whole) == len(row.tokens) - 1  # where the border is not kept, one token holds both line feeds


@pytest.mark.parametrize("kind", KINDS)
def test_roles_follow_the_text_for_every_kind(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    end = max(tokenizer.control.values())
    prompt = [Part(Role.PROMPT, "in e\u0301 the "), Part(Role.PROMPT, end)]
    completion = [Part(Role.THOUGHT, "the a\n"), Part(Role.ANSWER, "\nin a"), Part(Role.ANSWER, end)]
    row = encode(Turn(prompt, completion), tokenizer)
    start = int(np.argmax(row.roles != Role.PROMPT))
    assert tokenizer.decode(row.tokens[start:]).lstrip(" ").startswith("the a\n\nin a")
    assert (row.roles[start], row.roles[-2], row.tokens[start - 1]) == (Role.THOUGHT, Role.ANSWER, end)


def test_a_row_that_does_not_come_back_is_a_fault_of_its_own(tmp_path):
    """NFC: an answer in another form would be taught in the one that the tokenizer writes."""
    tokenizer = read_hf_tokenizer(write_like("qwen3", tmp_path))
    turns = [chat(tokenizer).turn(ask("e\u0301", text)) for text in ("a", "e\u0301", "\u00e9")]
    good, bad, other = encode_in_one_go(turns, tokenizer)
    assert isinstance(good, EncodedRow) and isinstance(other, EncodedRow)
    assert isinstance(bad, RowError) and "supervised text back" in bad.reason


@given(st.lists(st.sampled_from(["a", "\u00e9", "\u4f60", "\U0001f642", "ab "]), min_size=1, max_size=6), st.randoms())
def test_places_from_bytes(parts, random):
    text = "".join(parts)
    data = text.encode()
    cuts = sorted({0, len(data), *(random.randrange(len(data)) for _ in range(3))})
    pieces = [data[a:b] for a, b in itertools.pairwise(cuts)]
    encoded = places_by_bytes(text, list(range(len(pieces))), pieces)
    for start, end, piece in zip(encoded.starts, encoded.ends, pieces, strict=True):
        assert piece in text[start:end].encode() and len(text[start:end].encode()) - len(piece) <= 6


def test_places_of_a_normalised_text_are_exact_outside_the_difference():
    encoded = places_by_bytes("abe\u0301cd", [0, 1, 2, 3], [piece.encode() for piece in ("ab", "\u00e9", "c", "d")])
    assert (encoded.starts[0], encoded.starts[2:], encoded.ends[2:]) == (0, [4, 5], [5, 6])
