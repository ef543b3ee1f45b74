"""Plain text never becomes a control token, and what comes back from ids is exact."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, make_tokenizer, qwen_rules, sentencepiece_rules, write_folder

from cot_components.data.bad_rows import RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.pieces import REPLACEMENT, Piece, decode_pieces
from cot_components.data.text.text_tokenizer import TextTokenizer, any_of
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError


def codes(text):
    return [ord(c) for c in text]


LETTERS = TextTokenizer(
    encode_plain=lambda texts: [codes(text) for text in texts],
    decode_plain=lambda ids: "".join(map(chr, ids)),
    control={"<a>": 1000, "<aa>": 1001},
    added_tokens={"<a>": 1000, "<aa>": 1001},
    bos_id=None,
    eos_id=1000,
    pad_id=0,
    stop_ids=(1000,),
    vocab_size=1002,
    content_hash="letters",
)
"""One id per character code; control tokens from 1000 on."""
CARELESS = replace(LETTERS, encode_plain=lambda texts: [[1000] if text == "<a>" else codes(text) for text in texts])
"""Turns the whole text `<a>` into its control token, as libraries do."""


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_come_from_ids_alone(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    control_ids = set(tokenizer.control.values())
    for text in tokenizer.control:
        for hostile in (text, f"a{text}b", text + text, text[:-1] + text):
            ids = tokenizer.encode_text(hostile)
            assert not control_ids & set(ids) and tokenizer.decode(ids) == hostile
    some = list(tokenizer.control.items())[:8]
    ids = [i for _, control_id in some for i in (*tokenizer.encode_text("in "), control_id)]
    for given_ids in (ids, np.array(ids, dtype=np.int32)):
        assert tokenizer.decode(given_ids) == "".join(f"in {text}" for text, _ in some)
    assert len(some) >= 3 and tokenizer.decode([]) == ""


def test_breaking_the_text_is_what_keeps_control_ids_out():
    assert CARELESS.encode_plain(["<a>"]) == [[1000]] and CARELESS.encode_text("<a>") == codes("<a>")
    with pytest.raises(RowError, match="becomes a control token"):
        replace(CARELESS, control={"other": 1000}, added_tokens={}).encode_text("<a>")


@given(st.lists(st.sampled_from(["<a>", "<aa>", "<", "a", ">", "x", "\u00e9", "\n"]), max_size=12))
def test_encoding_in_one_batch_or_one_by_one(pieces):
    texts = ["".join(pieces[:n]) for n in range(len(pieces) + 1)]
    together = CARELESS.encode_texts(texts)
    assert together == [CARELESS.encode_text(text) for text in texts]
    assert [CARELESS.decode(ids) for ids in together] == texts


def test_the_longest_text_is_found_first():
    assert any_of(["<", "<a>", "<a"]).findall("<a><a<") == ["<a>", "<a", "<"]
    assert any_of([]).findall("<a>") == []


def test_ids_beyond_the_vocabulary_are_left_to_the_library():
    assert LETTERS.decode([5_000, 1_000]) == chr(5_000) + "<a>"


def test_half_a_surrogate_pair_is_a_fault_of_the_row():
    with pytest.raises(RowError, match="half of a surrogate pair"):
        LETTERS.encode_texts(["fine", "\ud800"])


def test_new_control_tokens_take_over_reserved_ids_and_lie_behind_the_vocabulary():
    tokenizer = LETTERS.with_control({"<think>": 1001, "</think>": 1005})
    assert tokenizer.control == {"<a>": 1000, "<think>": 1001, "</think>": 1005}
    assert tokenizer.vocab_size == 1006
    assert tokenizer.decode([1001, 98, 1005]) == "<think>b</think>"
    assert tokenizer.encode_text("<think></think>") == codes("<think></think>")
    assert CARELESS.with_control({"<think>": 1000}).encode_text("<a>") == codes("<a>"), "the old text is broken too"


def test_fingerprint_follows_everything_that_decides_ids():
    settings = [{"content_hash": "other"}, {"control": {"<a>": 1000}}, {"bos_id": 1}, {"eos_id": None}]
    settings.append({"chat_template": "{{ messages }}"})
    others = [LETTERS.with_control({"<think>": 1001}), *(replace(LETTERS, **one) for one in settings)]
    assert len({LETTERS.fingerprint(), *(other.fingerprint() for other in others)}) == len(others) + 1
    assert replace(LETTERS).fingerprint() == LETTERS.fingerprint()


@pytest.fixture(scope="module", params=["hf_llama2", "hf_mistral"])
def sentencepiece(request, tmp_path_factory):
    return make_tokenizer(request.param, tmp_path_factory.mktemp(request.param))


@given(text=st.text(st.sampled_from(" \nth\u00e9<"), max_size=12))
def test_sentencepiece_gives_every_piece_back(sentencepiece, text):
    assert sentencepiece.decode(sentencepiece.encode_text(text)) == text


def test_of_a_tokenizer_json_added_words_count_and_cuts_pads_and_blanks_do_not(tmp_path):
    tokenizer = make_tokenizer("hf_qwen", tmp_path)
    assert tokenizer.encode_text("<tool_call>") == [tokenizer.added_tokens["<tool_call>"]]
    assert "<tool_call>" not in tokenizer.control
    assert len(tokenizer.encode_text("1" * 100)) == 100, "its file cuts at 8 tokens"
    rules = qwen_rules()
    rules["pre_tokenizer"] = {**rules["pre_tokenizer"], "add_prefix_space": True}
    spaced = read_hf_tokenizer(write_folder(tmp_path, rules))
    assert spaced.decode(spaced.encode_text("12")) == "12"


def test_special_tokens_beside_the_vocabulary(tmp_path):
    qwen, mistral = (make_tokenizer(kind, tmp_path / kind) for kind in ("hf_qwen", "hf_mistral"))
    assert (qwen.bos_id, qwen.eos_id, qwen.pad_id) == (None, qwen.control["<|im_end|>"], qwen.control["<|endoftext|>"])
    assert (mistral.bos_id, mistral.eos_id, mistral.pad_id, mistral.stop_ids) == (1, 2, 2, (2,))
    (tmp_path / "hf_mistral/generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert read_hf_tokenizer(tmp_path / "hf_mistral").stop_ids == (2, 7)


@pytest.mark.parametrize(
    ("config", "name", "content", "ends"),
    [
        ({}, "other", {}, (None, None)),
        ({}, "special_tokens_map", {"bos_token": "<s>", "eos_token": {"content": "</s>"}}, (1, 2)),
        ({"bos_token": None}, "special_tokens_map", {"bos_token": "<s>", "eos_token": "</s>"}, (None, 2)),
        ({"eos_token": "<unk>"}, "special_tokens_map", {"eos_token": "</s>"}, (None, 0)),
        ({}, "generation_config", {"eos_token_id": 2}, (None, 2)),
        ({}, "generation_config", {"eos_token_id": [1, 2]}, (None, None)),
        ({}, "generation_config", {"eos_token_id": 40}, (None, None)),  # no control token
        ({}, "tokenizer_config", {"eos_token": {"x": 1}}, "eos_token"),
        ({}, "tokenizer_config", {"eos_token": 5}, "eos_token"),
        ({}, "tokenizer_config", {"pad_token": {"content": None, "id": 3}, "bos_token": ["<s>"]}, "bos_token"),
        ({}, "special_tokens_map", {"bos_token": ["<s>"]}, "bos_token"),
        ({}, "generation_config", {"eos_token_id": "</s>"}, "eos_token_id"),
        ({}, "generation_config", {"eos_token_id": [[2]]}, "eos_token_id"),
    ],
)
def test_begin_and_end_are_named_in_one_of_several_files(tmp_path, config, name, content, ends):
    write_folder(tmp_path, sentencepiece_rules(legacy=False), **config)
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    if isinstance(ends, str):
        with pytest.raises(UserError, match=rf"{name}\.json: {ends} must be "):
            read_hf_tokenizer(tmp_path)
    else:
        tokenizer = read_hf_tokenizer(tmp_path)
        assert (tokenizer.bos_id, tokenizer.eos_id) == ends


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        read_hf_tokenizer(tmp_path)
    folder = write_byte_tokenizer(tmp_path / "byte")
    for broken in ("nonsense", "[]"):
        (folder / "generation_config.json").write_text(broken)
        with pytest.raises(UserError, match=r"generation_config\.json (is not JSON|holds no object)"):
            read_hf_tokenizer(folder)
    whole = json.dumps(json.loads((folder / "tokenizer.json").read_text()) | {"normalizer": 0})
    deep = whole.replace('"normalizer": 0', '"normalizer": ' + "[" * 9000 + "]" * 9000)
    for text, path in (('{"version": "1.0"}', folder), ("nonsense", folder / "tokenizer.json"), (deep, folder)):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
            read_hf_tokenizer(path)


def pieces_of(*tokens):
    """Pieces of tokens that are these bytes."""
    return decode_pieces(range(len(tokens)), lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"))


@given(st.text(st.characters(exclude_characters=REPLACEMENT, exclude_categories=["Cs"])), st.binary(max_size=40))
def test_pieces_cover_every_token_and_are_the_characters_of_a_text(text, noise):
    for data in (text.encode(), noise):
        pieces = pieces_of(*(bytes([byte]) for byte in data))
        assert sum(piece.num_tokens for piece in pieces) == len(data) and all(piece.text for piece in pieces)
        if data != noise:
            assert "".join(piece.text for piece in pieces) == text


def test_pieces_are_whole_characters_and_swallow_nothing():
    broken = "\u4e2d".encode()[:2]
    shown = [piece.text for piece in pieces_of(broken[:1], broken[1:], b"a", b"b")]
    assert shown == [REPLACEMENT, REPLACEMENT, "a", "b"]
    assert pieces_of(b"sum \xe4", b"\xb8\xad", b"!") == [Piece("sum \u4e2d", 2), Piece("!", 1)]
    assert pieces_of(b"sum \xe4", b"!") == [Piece("sum " + REPLACEMENT, 1), Piece("!", 1)]


def test_pieces_of_decoders_that_drop_the_first_blank_or_a_whole_token():
    words = [" Let", " me", " see", ""]
    pieces = decode_pieces([0, 1, 2, 3], lambda ids: "".join(words[i] for i in ids).removeprefix(" "))
    assert pieces == [Piece("Let", 1), Piece(" me", 1), Piece(" see", 1), Piece("\u27e83\u27e9", 1)]
