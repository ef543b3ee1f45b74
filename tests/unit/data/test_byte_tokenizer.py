"""The byte-level tokenizer: lossless, deterministic, and a folder that transformers reads."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cot_components.data.generated.byte_tokenizer import (
    CONTROL_TOKENS,
    NUM_MERGES,
    build_byte_tokenizer,
    write_byte_tokenizer,
)
from cot_components.data.generated.tasks import make_problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer") / "new" / "folder")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_ids_are_bytes_then_merges_then_control_tokens(tokenizer):
    assert tokenizer.get_vocab_size() == 384 and NUM_MERGES == 118
    for byte in range(128):
        assert tokenizer.encode(chr(byte)).ids == [byte] and tokenizer.decode([byte]) == chr(byte)
    assert tokenizer.encode("\u00e9").ids == list("\u00e9".encode())
    assert [tokenizer.token_to_id(token) for token in CONTROL_TOKENS] == list(range(374, 384))
    assert tokenizer.encode("a<|end|><|pad|>").tokens == ["a", "<|end|>", "<|pad|>"]


@given(text=st.text(max_size=60) | st.just("".join(map(chr, range(0x20, 0x2000)))))
def test_any_text_survives(text):
    tokenizer = build_byte_tokenizer()
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert any(token in text for token in CONTROL_TOKENS) or max(ids, default=0) < 256 + NUM_MERGES


def test_merges_shorten_the_tasks_and_their_numbers(tokenizer):
    assert sum(len(tokenizer.encode(f" {number}").ids) == 1 for number in range(21)) >= 18
    texts = [problem.response for problem in make_problems(split="held_out", count=120)]
    assert sum(len(tokenizer.encode(text).ids) for text in texts) < 0.75 * sum(map(len, texts))


def test_another_process_writes_the_same_bytes(folder, tmp_path):
    code = f"from {write_byte_tokenizer.__module__} import *; write_byte_tokenizer({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_transformers_loads_the_folder_with_its_template(folder, tokenizer):
    loaded = AutoTokenizer.from_pretrained(folder)
    problem = make_problems(split="train", count=1)[0]
    messages = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.response}]
    prompt = loaded.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = loaded.apply_chat_template(messages, tokenize=False)
    assert prompt == f"<|user|>{problem.question}<|end|><|assistant|>"
    assert whole == prompt + problem.response + "<|end|>"
    others = [{"role": "system", "content": "s"}, {"role": "tool", "content": "t"}]
    assert loaded.apply_chat_template(others, tokenize=False) == "<|system|>s<|end|><|tool|>t<|end|>"
    ids = loaded.encode(whole + "\u00e9")
    assert ids == tokenizer.encode(whole + "\u00e9").ids and loaded.decode(ids) == whole + "\u00e9"
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token, len(loaded)) == ("<|end|>", "<|pad|>", None, 384)
