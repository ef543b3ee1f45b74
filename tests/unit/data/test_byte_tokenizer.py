"""The byte-level tokenizer: lossless, deterministic, and a folder that transformers reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cot_components.data.generated import byte_tokenizer
from cot_components.data.generated.byte_tokenizer import (
    CONTROL_TOKENS,
    build_byte_tokenizer,
    write_byte_tokenizer,
)
from cot_components.data.generated.tasks import make_problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer") / "new" / "folder")


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_ids_are_bytes_then_merges_then_control_tokens(tokenizer):
    assert tokenizer.get_vocab_size() == 384
    for byte in range(128):
        assert tokenizer.decode([byte], skip_special_tokens=False) == chr(byte)
    assert [tokenizer.token_to_id(token) for token in CONTROL_TOKENS] == list(range(374, 384))


@given(text=st.text(max_size=60))
def test_any_text_survives(text):
    tokenizer = build_byte_tokenizer()
    ids = tokenizer.encode(text).ids
    control = any(token in text for token in CONTROL_TOKENS)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert control or max(ids, default=0) < 256 + byte_tokenizer.NUM_MERGES


def test_every_byte_has_its_own_id(tokenizer):
    text = "".join(chr(point) for point in range(0x20, 0x2000))
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert all(id_ < 256 or id_ in range(256, 374) for id_ in ids)
    assert [tokenizer.encode(chr(point)).ids for point in range(128)] == [[point] for point in range(128)]
    assert tokenizer.encode("\u00e9").ids == list("\u00e9".encode())


def test_numbers_of_the_tasks_are_single_tokens(tokenizer):
    assert sum(len(tokenizer.encode(f" {number}").ids) == 1 for number in range(21)) >= 18
    merged = [tokenizer.id_to_token(i) for i in range(256, 374)]
    assert len(merged) == byte_tokenizer.NUM_MERGES == 118


def test_merges_shorten_the_tasks_and_are_learned_from_training_problems_only(tokenizer):
    problems = make_problems(split="held_out", count=120)
    lengths = [(len(tokenizer.encode(text).ids), len(text)) for text in (p.response for p in problems)]
    assert sum(tokens for tokens, _ in lengths) < 0.75 * sum(characters for _, characters in lengths)


def test_building_twice_gives_the_same_bytes(folder, tmp_path):
    byte_tokenizer._learn_merges.cache_clear()
    again = write_byte_tokenizer(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_control_tokens_are_single_ids(tokenizer):
    assert tokenizer.encode("a<|end|><|pad|>").tokens == ["a", "<|end|>", "<|pad|>"]


def test_transformers_loads_the_folder(folder, tokenizer):
    loaded = AutoTokenizer.from_pretrained(folder)
    text = "<|user|>What is 34 + 5?<|end|><|assistant|><think>\nHmm \u00e9.\n</think>\n\nAnswer: 39<|end|>"
    ids = loaded.encode(text)
    assert ids == tokenizer.encode(text).ids and loaded.decode(ids) == text
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token, len(loaded)) == ("<|end|>", "<|pad|>", None, 384)


def test_chat_template_of_the_prompt_starts_the_whole(folder):
    loaded = AutoTokenizer.from_pretrained(folder)
    problem = make_problems(split="train", count=1)[0]
    messages = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.response}]
    prompt = loaded.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = loaded.apply_chat_template(messages, tokenize=False)
    assert whole == prompt + messages[1]["content"] + "<|end|>"
    assert prompt == f"<|user|>{problem.question}<|end|><|assistant|>"
    others = [{"role": "system", "content": "s"}, {"role": "tool", "content": "t"}]
    rendered = loaded.apply_chat_template(others, tokenize=False)
    assert rendered == "<|system|>s<|end|><|tool|>t<|end|>"


def test_config_names_what_it_holds(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert {config["eos_token"], config["pad_token"]} <= set(CONTROL_TOKENS)
    assert "add_generation_prompt" in config["chat_template"]
