"""GPT-2's tokenizer from every layout of its files against `transformers`; what the compact tokenizer promises."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import gpt2_originals, write_files
from transformers import AutoTokenizer, GPT2Tokenizer

from cot_components.models.gpt2_bpe import (
    COMPACT_SYMBOLS,
    compact_tokenizer,
    gpt2_tokenizer,
)

CORPUS = [
    "The quick brown fox doesn't jump; it's 3,141.59 metres away.",
    " 5 6 3 2 * 7 4 3 4||5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) #### 5 5 6 0 8 2 0 1",
    "  two blanks, a tab\t, a new line\n\n and trailing blanks   ",
    "Zażółć gęślą jaźń, naïve café, Straße, Ελληνικά, Кириллица, עברית, العربية",
    "漢字と仮名、한국어, ไทย, नमस्ते",
    "👩‍👩‍👧‍👦 🇪🇺 e\u0301 \u00a0\u2003\u200b\ufeff \x00\x7f",
    "'s 't 're 've 'm 'll 'd 'S ####<<16-3-4=9>>",
    "",
]


@pytest.fixture(scope="module", name="originals")
def _originals(tmp_path_factory) -> Path:
    return gpt2_originals(tmp_path_factory.mktemp("bpe"), CORPUS)


@pytest.fixture(scope="module", name="theirs")
def _theirs(originals) -> GPT2Tokenizer:
    vocab = json.loads((originals / "encoder.json").read_text())
    merges = (originals / "vocab.bpe").read_text().splitlines()[1:]
    return GPT2Tokenizer(vocab=vocab, merges=[tuple(merge.split()) for merge in merges if merge])


def test_ids_equal_transformers_from_every_layout(originals, theirs, tmp_path) -> None:
    shutil.copy(originals / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(originals / "vocab.bpe", tmp_path / "merges.txt")
    for path in (originals, tmp_path, write_files(gpt2_tokenizer(str(originals)), tmp_path / "converted")):
        ours = gpt2_tokenizer(str(path))
        for text in CORPUS:
            ids = ours.encode(text, add_bos=False, add_eos=False)
            assert ids == theirs.encode(text, add_special_tokens=False)
            assert ours.decode(ids) == text
        assert ours.eos_id == ours.bos_id == ours.pad_id == theirs.eos_token_id


def test_transformers_reads_what_we_write(originals, theirs, tmp_path) -> None:
    loaded = AutoTokenizer.from_pretrained(write_files(gpt2_tokenizer(str(originals)), tmp_path / "out"))
    assert [loaded.encode(text) for text in CORPUS] == [theirs.encode(text) for text in CORPUS]
    assert loaded.eos_token == "<|endoftext|>" and loaded.eos_token_id == theirs.eos_token_id


def test_the_hub_s_folder_names_no_special_token(originals, theirs, tmp_path) -> None:
    folder = write_files(gpt2_tokenizer(str(originals)), tmp_path / "hub")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    ours = gpt2_tokenizer(str(folder))
    assert ours.eos_id == ours.bos_id == ours.pad_id == theirs.eos_token_id and ours.stop_tokens == [ours.eos_id]


def test_end_of_text_in_a_text_is_text(originals) -> None:
    ours = gpt2_tokenizer(str(originals))
    ids = ours.encode("a<|endoftext|>b", add_bos=False, add_eos=False)
    assert ours.eos_id not in ids and ours.decode(ids) == "a<|endoftext|>b"


def pieces(text: str) -> list[str]:
    compact = compact_tokenizer().text
    return [compact.decode([i]) for i in compact.encode_text(text)]


def test_compact_gives_every_digit_and_symbol_its_own_token() -> None:
    assert pieces(" 5 6 * 7 4 ") == [" 5", " 6", " *", " 7", " 4", " "]
    assert pieces(" 5 + ( 1 ) ") == [" 5", " +", " (", " 1", " )", " "]
    assert pieces(" #### 5") == [" ####", " 5"]
    assert pieces("<<16-3=13>> <<9*2.5=22>>") == ["<<", *"16-3=13", ">>", " <<", *"9*2.5=22", ">>"]
    assert all(pieces(symbol) == [symbol] and pieces(f" {symbol}") == [f" {symbol}"] for symbol in COMPACT_SYMBOLS)


def test_compact_cuts_multiplication_where_gpt2_does(originals) -> None:
    gpt2 = gpt2_tokenizer(str(originals)).text
    thought = " 5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) "
    assert [gpt2.decode([i]) for i in gpt2.encode_text(thought)] == pieces(thought)
    assert len(pieces(thought)) == 20 + 1, "symbols and the blank behind the last"


@given(st.text(max_size=60))
def test_compact_gives_any_text_back(text: str) -> None:
    tokenizer = compact_tokenizer().text
    ids = tokenizer.encode_text(text)
    assert tokenizer.decode(ids) == text and max(ids, default=0) < tokenizer.vocab_size - 1


def test_compact_folder_loads_in_transformers(tmp_path) -> None:
    theirs = AutoTokenizer.from_pretrained(write_files(ours := compact_tokenizer(), tmp_path / "compact"))
    assert len(theirs) == ours.vocab_size == 290
    assert theirs.eos_token_id == ours.eos_id == 289
    assert [theirs.encode(text) for text in CORPUS] == [ours.text.encode_text(text) for text in CORPUS]
