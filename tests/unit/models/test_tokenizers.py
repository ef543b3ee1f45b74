"""Tokenizers as stock torchtune recipes see them, and as our components see torchtune's."""

from pathlib import Path
from typing import Any

import pytest
from chats import FAMILY
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import CHATML, MAKERS, llama3, qwen2_5, qwen_rules, write_folder, write_like

from cot_components.data.bad_rows import RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.errors import UserError
from cot_components.models.tokenizers import HFTokenizer, as_text_tokenizer, hf_tokenizer


@pytest.fixture(scope="module")
def byte(tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    return hf_tokenizer(str(write_byte_tokenizer(tmp_path_factory.mktemp("byte"))))


def messages(*turns: tuple[str, str, bool]) -> list:
    from torchtune.data import Message

    return [Message(role=role, content=content, masked=masked) for role, content, masked in turns]


TALK = (("system", "s", True), ("user", "hi <|end|>", True), ("assistant", "ok", False))


def test_what_stock_recipes_ask_of_a_tokenizer(byte: HFTokenizer) -> None:
    control = byte.special_tokens
    assert (byte.pad_id, byte.eos_id, byte.bos_id) == (control["<|pad|>"], control["<|end|>"], None)
    assert byte.stop_tokens == [control["<|end|>"]]
    assert byte.vocab_size == 1 + max(control.values())
    assert byte.encode("a", add_bos=True, add_eos=True) == [97, control["<|end|>"]]
    assert byte.encode("a", add_bos=False, add_eos=False) == [97]
    assert byte.decode([control["<|user|>"], 97]) == "a"
    assert byte.decode([control["<|user|>"], 97], skip_special_tokens=False) == "<|user|>a"


def test_a_conversation_and_its_masks(byte: HFTokenizer) -> None:
    tokens, mask = byte.tokenize_messages(messages(*TALK))
    assert byte.text.decode(tokens) == "<|system|>s<|end|><|user|>hi <|end|><|end|><|assistant|>ok<|end|>"
    assert tokens.count(byte.eos_id) == 3  # the user's own text of it is plain
    unmasked = [token for token, masked in zip(tokens, mask, strict=True) if not masked]
    assert byte.text.decode(unmasked) == "<|assistant|>ok<|end|>"


def test_a_template_of_its_own_is_that_of_our_components_too(byte: HFTokenizer, tmp_path: Path) -> None:
    folder = write_byte_tokenizer(tmp_path / "byte")
    source = "{% for message in messages %}<|{{ message.role }}|>NEW {{ message.content }}<|end|>{% endfor %}"
    (tmp_path / "new.jinja").write_text(source)
    ours = hf_tokenizer(str(folder), template=str(tmp_path / "new.jinja"))
    assert as_text_tokenizer(ours).chat_template == source
    assert as_text_tokenizer(ours).fingerprint() != byte.text.fingerprint()
    assert byte.text.fingerprint() == hf_tokenizer(str(folder)).text.fingerprint()


def test_a_prompt_for_generation(byte: HFTokenizer) -> None:
    tokens, mask = byte.tokenize_messages(messages(*TALK[:2]), add_end_tokens=False)
    assert byte.text.decode(tokens).endswith("<|end|><|assistant|>")
    assert mask == [True] * len(tokens)


def test_a_sample_keeps_its_other_columns(byte: HFTokenizer) -> None:
    sample = {"messages": messages(*TALK), "id": 3}
    made = byte(sample)
    assert set(made) == {"tokens", "mask", "id"} and "messages" in sample
    prompt = byte({"messages": messages(*TALK[:2])}, inference=True)
    assert made["tokens"][: len(prompt["tokens"])] == prompt["tokens"]


@pytest.mark.parametrize("limit", range(1, 40, 7))
def test_max_seq_len_cuts_as_torchtune_does(byte: HFTokenizer, limit: int) -> None:
    whole, _ = byte.tokenize_messages(messages(*TALK))
    cut, mask = HFTokenizer(byte.text, max_seq_len=limit).tokenize_messages(messages(*TALK))
    assert len(cut) == len(mask) == min(limit, len(whole))
    assert cut[:-1] == whole[: len(cut) - 1] and cut[-1] == byte.eos_id


def test_a_template_that_rewrites_history_cannot_be_masked_by_message(tmp_path: Path, byte: HFTokenizer) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages | length }}{{ messages[-1].content }}", encoding="utf-8")
    rewriting = HFTokenizer(byte.text, template=str(tmp_path / "t.jinja"))
    with pytest.raises(UserError, match="rewrites earlier messages"):
        rewriting.tokenize_messages(messages(*TALK))


def test_without_a_template_text_can_be_encoded_but_no_conversation(tmp_path: Path) -> None:
    bare = hf_tokenizer(str(write_folder(tmp_path, qwen_rules(), **CHATML)))
    assert bare.decode(bare.encode("the 12", add_bos=True, add_eos=False)) == "the 12"
    with pytest.raises(UserError, match="has no chat template"):
        bare.tokenize_messages(messages(*TALK))
    assert hf_tokenizer(str(tmp_path), template="chatml").tokenize_messages(messages(*TALK))[0]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("layout", ["chatml, keeps", "llama3, keeps", "plain, keeps, dated"])
def test_stock_recipes_get_the_ids_of_transformers_for_every_kind(kind: str, layout: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_like(kind, tmp_path, FAMILY[layout])
    ours, theirs = hf_tokenizer(str(folder), date="2026-01-05"), AutoTokenizer.from_pretrained(str(folder))
    talk = [("user", "12 + 7?", True), ("assistant", "<think>\n12 + 7 = 19.</think>\n\nAnswer: 19", False)]
    source = FAMILY[layout].replace("strftime_now('%d %B %Y')", "'05 January 2026'")
    turns = [{"role": role, "content": content} for role, content, _ in talk]
    expected = theirs.apply_chat_template(turns, chat_template=source, tokenize=True, return_dict=False)
    tokens, mask = ours.tokenize_messages(messages(*talk))
    assert tokens == expected
    prompt = theirs.apply_chat_template(turns[:1], chat_template=source, add_generation_prompt=True, return_dict=False)
    assert ours.tokenize_messages(messages(talk[0]), add_end_tokens=False)[0] == prompt
    taught = ours.text.decode([i for i, masked in zip(tokens, mask, strict=True) if not masked])
    assert "12 + 7 = 19." in taught and "12 + 7?" not in taught and mask[0] is True


def test_llama3_has_the_vocabulary_of_its_models(tmp_path: Path) -> None:
    text = as_text_tokenizer(llama3(tmp_path))
    assert text.vocab_size == 128_256
    assert (text.bos_id, text.eos_id, text.pad_id) == (128_000, 128_001, 128_004)
    assert text.stop_ids == (128_001, 128_009, 128_008)
    assert max(text.control.values()) == 128_255 and "<|image|>" not in text.control


@pytest.fixture(scope="module")
def llama3_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TextTokenizer]:
    """torchtune's, and how we see it."""
    theirs = llama3(tmp_path_factory.mktemp("llama3"))
    return theirs, as_text_tokenizer(theirs)


@given(st.lists(st.sampled_from(["the thing ", "\n\n", "x" * 30, " " * 30, "\u00e9", "<|", "a b "]), max_size=30))
def test_llama3_gives_the_ids_of_torchtune(llama3_pair: tuple[Any, TextTokenizer], parts: list[str]) -> None:
    theirs, ours = llama3_pair
    assert ours.encode_text("".join(parts)) == theirs.encode("".join(parts), add_bos=False, add_eos=False)


@pytest.mark.parametrize("long", ["the" * 20_000, " " * 60_000, "the  th" * 60_000])
def test_llama3_long_runs_are_cut_where_torchtune_cuts_them(llama3_pair: tuple[Any, TextTokenizer], long: str) -> None:
    theirs, ours = llama3_pair
    expected = [theirs.encode(text, add_bos=False, add_eos=False) for text in (long, "b")]
    assert ours.encode_texts([long, "b"]) == expected


def test_qwen2_5_gives_the_ids_of_torchtune(tmp_path: Path) -> None:
    theirs = qwen2_5(tmp_path)
    text = as_text_tokenizer(theirs)
    for plain in ("the thing\n\n 12", "<tool_call>\n{}\n</tool_call>", "\u4f60 \U0001f642", ""):
        assert text.encode_text(plain) == theirs.encode(plain, add_bos=False, add_eos=False)
    assert text.encode_text("<tool_call>") == [151_657]
    assert text.vocab_size == 151_665
    assert (text.bos_id, text.eos_id, text.pad_id) == (None, 151_645, 151_643)


def test_qwen2_5_without_a_letter_says_so(tmp_path: Path) -> None:
    theirs = qwen2_5(tmp_path)
    del theirs.encoder["z"]
    with pytest.raises(RowError, match="characters that are not in the vocabulary"):
        as_text_tokenizer(theirs).encode_texts(["a", "z"])


def test_fingerprints_follow_vocabulary_and_merges(tmp_path: Path) -> None:
    one, other, third = (qwen2_5(tmp_path) for _ in range(3))
    other.encoder["new"] = 9_999
    third.bpe_ranks.popitem()
    prints = {as_text_tokenizer(tokenizer).fingerprint() for tokenizer in (one, other, third)}
    assert len(prints) == 3
    (tmp_path / "llama").mkdir()
    assert as_text_tokenizer(one).fingerprint() == as_text_tokenizer(qwen2_5(tmp_path)).fingerprint()
    assert as_text_tokenizer(llama3(tmp_path / "llama")).fingerprint() not in prints
