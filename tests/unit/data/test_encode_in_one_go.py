"""Whose a token is when a conversation is encoded in one go, and where the prompt ends."""

import itertools

import numpy as np
import pytest
from chats_for_tests import PLAIN, ask, chat
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import KINDS, make_tokenizer
from tokenizers_like_models import write_like

from cot_components.data.bad_rows import RowError
from cot_components.data.rows.encode import EncodedRow, encode_in_one_go
from cot_components.data.text.chat import Part, Turn
from cot_components.data.text.text_tokenizer import TextTokenizer, places_by_bytes
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.roles import Role

END = "<|end|>"


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    return read_hf_tokenizer(write_like("llama3", tmp_path_factory.mktemp("llama3")))


def encode(turn: Turn, tokenizer: TextTokenizer) -> EncodedRow:
    (row,) = encode_in_one_go([turn], tokenizer)
    assert isinstance(row, EncodedRow), row
    return row


def spelled(row: EncodedRow, tokenizer: TextTokenizer) -> list[tuple[str, str]]:
    return [(Role(r).label, tokenizer.decode([t])) for t, r in zip(row.tokens.tolist(), row.roles, strict=True)]


def test_a_token_that_holds_any_of_a_tag_is_the_tag_s(llama3):
    row = encode(chat(llama3).turn(ask("q", "<think>\n12 + 7 = 19.</think>\n\nAnswer: 19")), llama3)
    shown = spelled(row, llama3)
    assert ("think_open", ">\n") in shown and ("thought", "\n") not in shown
    assert ("think_close", ".</") in shown
    assert ("think_close", ">\n\n") in shown
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
    assert row.roles[start] == Role.THOUGHT and row.roles[-2] == Role.ANSWER
    assert row.tokens[start - 1] == end


def test_text_that_spells_a_control_token_stays_text(llama3):
    format = chat(llama3)
    row = encode(format.turn(ask(f"say {END} now", f"<think>{END}</think>{END}a")), llama3)
    assert llama3.decode(row.tokens) == f"<|user|>say {END} now{END}<|assistant|><think>{END}</think>{END}a{END}"
    assert (row.tokens == llama3.control[END]).sum() == 2
    assert row.tokens[: len(format.prompt_ids(ask(f"say {END} now")))].tolist() == format.prompt_ids(
        ask(f"say {END} now")
    )


def test_a_row_that_does_not_come_back_is_a_fault_of_its_own(tmp_path):
    """NFC: an answer in another form would be taught in the one that the tokenizer writes."""
    tokenizer = read_hf_tokenizer(write_like("qwen3", tmp_path))
    good, bad, other = encode_in_one_go(
        [chat(tokenizer).turn(ask("e\u0301", text)) for text in ("a", "e\u0301", "\u00e9")], tokenizer
    )
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
    text, written = "abe\u0301cd", ["ab", "\u00e9", "c", "d"]
    encoded = places_by_bytes(text, [0, 1, 2, 3], [piece.encode() for piece in written])
    assert (encoded.starts[0], encoded.starts[2:], encoded.ends[2:]) == (0, [4, 5], [5, 6])
