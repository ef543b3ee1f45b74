"""Plain text never becomes a control token, and what comes back from ids is exact."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import KINDS, make_tokenizer, qwen_rules, sentencepiece_rules, write_folder

from cot_components.data.bad_rows import RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.text_tokenizer import TextTokenizer, any_of
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError


def letters() -> TextTokenizer:
    """One id per character code; control tokens from 1000 on."""
    return TextTokenizer(
        encode_plain=lambda texts: [[ord(c) for c in text] for text in texts],
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


def careless() -> TextTokenizer:
    """Turns the whole text `<a>` into its control token, as libraries do."""

    def encode_plain(texts: Sequence[str]) -> list[list[int]]:
        return [[1000] if text == "<a>" else [ord(c) for c in text] for text in texts]

    return replace(letters(), encode_plain=encode_plain)


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_names_control_tokens_stays_text(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    control_ids = set(tokenizer.control.values())
    named = 0
    for text in tokenizer.control:
        for hostile in (text, f"a{text}b", text + text, text[:-1] + text):
            ids = tokenizer.encode_text(hostile)
            assert not control_ids & set(ids)
            assert tokenizer.decode(ids) == hostile
            named += 1
    assert named >= 12


def test_breaking_the_text_is_what_keeps_control_ids_out():
    assert careless().encode_plain(["<a>"]) == [[1000]]
    assert careless().encode_text("<a>") == [60, 97, 62]
    unbroken = replace(careless(), control={"other": 1000}, added_tokens={})
    with pytest.raises(RowError, match="becomes a control token"):
        unbroken.encode_text("<a>")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_of_control_tokens_mix(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    mixed, ids = "", []
    for text, i in list(tokenizer.control.items())[:8]:
        mixed += f"in {text}"
        ids += [*tokenizer.encode_text("in "), i]
    assert len(ids) >= 6
    assert tokenizer.decode(ids) == mixed
    assert tokenizer.decode(np.array(ids, dtype=np.int32)) == mixed
    assert tokenizer.decode([]) == ""


@given(st.lists(st.sampled_from(["<a>", "<aa>", "<", "a", ">", "x", "\u00e9", "\n"]), max_size=12))
def test_encoding_in_one_batch_or_one_by_one(pieces):
    texts = ["".join(pieces[:n]) for n in range(len(pieces) + 1)]
    tokenizer = careless()
    together = tokenizer.encode_texts(texts)
    assert together == [tokenizer.encode_text(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in together] == texts


def test_the_longest_text_is_found_first():
    assert any_of(["<", "<a>", "<a"]).findall("<a><a<") == ["<a>", "<a", "<"]
    assert any_of([]).findall("<a>") == []


def test_ids_beyond_the_vocabulary_are_left_to_the_library():
    assert letters().decode([5_000, 1_000]) == chr(5_000) + "<a>"


def test_half_a_surrogate_pair_is_a_fault_of_the_row():
    with pytest.raises(RowError, match="half of a surrogate pair"):
        letters().encode_texts(["fine", "\ud800"])


def test_new_control_tokens_take_over_reserved_ids_and_lie_behind_the_vocabulary():
    tokenizer = letters().with_control({"<think>": 1001, "</think>": 1005})
    assert tokenizer.control == {"<a>": 1000, "<think>": 1001, "</think>": 1005}
    assert tokenizer.vocab_size == 1006
    assert tokenizer.decode([1001, 98, 1005]) == "<think>b</think>"
    assert tokenizer.encode_text("<think></think>") == [ord(c) for c in "<think></think>"]


def test_the_old_text_of_a_reserved_token_is_broken_too():
    tokenizer = careless().with_control({"<think>": 1000})
    assert tokenizer.encode_text("<a>") == [60, 97, 62]


def test_fingerprint_follows_everything_that_decides_ids():
    tokenizer = letters()
    others = [
        replace(tokenizer, content_hash="other"),
        replace(tokenizer, control={"<a>": 1000}),
        replace(tokenizer, bos_id=1),
        replace(tokenizer, eos_id=None),
        replace(tokenizer, chat_template="{{ messages }}"),
        tokenizer.with_control({"<think>": 1001}),
    ]
    assert len({tokenizer.fingerprint(), *(other.fingerprint() for other in others)}) == len(others) + 1
    assert letters().fingerprint() == tokenizer.fingerprint()


@pytest.fixture(scope="module", params=["hf_llama2", "hf_mistral"])
def sentencepiece(request, tmp_path_factory):
    return make_tokenizer(request.param, tmp_path_factory.mktemp(request.param))


@given(text=st.text(st.sampled_from(" \nth\u00e9<"), max_size=12))
def test_sentencepiece_gives_every_piece_back(sentencepiece, text):
    assert sentencepiece.decode(sentencepiece.encode_text(text)) == text


def test_ordinary_added_tokens_are_vocabulary(tmp_path):
    tokenizer = make_tokenizer("hf_qwen", tmp_path)
    assert tokenizer.encode_text("<tool_call>") == [tokenizer.added_tokens["<tool_call>"]]
    assert "<tool_call>" not in tokenizer.control


def test_no_space_is_put_before_a_text(tmp_path):
    rules = qwen_rules()
    rules["pre_tokenizer"] = {**rules["pre_tokenizer"], "add_prefix_space": True}
    tokenizer = read_hf_tokenizer(write_folder(tmp_path, rules))
    assert tokenizer.decode(tokenizer.encode_text("12")) == "12"


def test_settings_that_cut_or_pad_are_left_out(tmp_path):
    tokenizer = make_tokenizer("hf_qwen", tmp_path)  # its file cuts at 8 tokens
    assert len(tokenizer.encode_text("1" * 100)) == 100


def test_special_tokens_beside_the_vocabulary(tmp_path):
    qwen, mistral = (make_tokenizer(kind, tmp_path / kind) for kind in ("hf_qwen", "hf_mistral"))
    assert (qwen.bos_id, qwen.eos_id, qwen.pad_id) == (None, qwen.control["<|im_end|>"], qwen.control["<|endoftext|>"])
    assert (mistral.bos_id, mistral.eos_id, mistral.pad_id, mistral.stop_ids) == (1, 2, 2, (2,))
    (tmp_path / "hf_mistral/generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert read_hf_tokenizer(tmp_path / "hf_mistral").stop_ids == (2, 7)


@pytest.mark.parametrize(
    ("config", "files", "ends"),
    [
        ({}, {}, (None, None)),
        ({}, {"special_tokens_map": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}}, (1, 2)),
        ({"bos_token": None}, {"special_tokens_map": {"bos_token": "<s>", "eos_token": "</s>"}}, (None, 2)),
        ({"eos_token": "<unk>"}, {"special_tokens_map": {"eos_token": "</s>"}}, (None, 0)),
        ({}, {"generation_config": {"eos_token_id": 2}}, (None, 2)),
        ({}, {"generation_config": {"eos_token_id": [1, 2]}}, (None, None)),
        ({}, {"generation_config": {"eos_token_id": 40}}, (None, None)),  # no control token
    ],
)
def test_begin_and_end_are_named_in_one_of_several_files(tmp_path, config, files, ends):
    write_folder(tmp_path, sentencepiece_rules(legacy=False), **config)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    tokenizer = read_hf_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == ends


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config", {"eos_token": {"x": 1}}),
        ("tokenizer_config", {"eos_token": 5}),
        ("tokenizer_config", {"pad_token": {"content": None, "id": 3}, "bos_token": ["<s>"]}),
        ("special_tokens_map", {"bos_token": ["<s>"]}),
        ("generation_config", {"eos_token_id": "</s>"}),
        ("generation_config", {"eos_token_id": [[2]]}),
    ],
)
def test_special_tokens_of_another_type_are_named(tmp_path, name, content):
    write_folder(tmp_path, sentencepiece_rules(legacy=False))
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{name}\.json: ({'|'.join(content)}) must be "):
        read_hf_tokenizer(tmp_path)


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        read_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match=r"is no tokenizer\.json"):
        read_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("nonsense")
    with pytest.raises(UserError, match=r"is no tokenizer\.json"):
        read_hf_tokenizer(tmp_path / "tokenizer.json")
    folder = write_byte_tokenizer(tmp_path / "byte")
    for broken in ("nonsense", "[]"):
        (folder / "generation_config.json").write_text(broken)
        with pytest.raises(UserError, match=r"generation_config\.json (is not JSON|holds no object)"):
            read_hf_tokenizer(folder)
