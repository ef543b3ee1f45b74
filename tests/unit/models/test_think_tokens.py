"""Think tags as single tokens: where their ids come from, and what growing a vocabulary changes in a model."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import CHATML, added_token, make_tokenizer, qwen_rules, write_folder
from torch import nn

from cot_components.data.text.segments import Tags
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError
from cot_components.models.think_tokens import grow_vocabulary, with_tag_tokens, write_tag_tokens

TAGS = Tags()


def ids_of_tags(kind: str, folder: Path, tags: Tags = TAGS) -> tuple[int, int]:
    control = with_tag_tokens(make_tokenizer(kind, folder), tags).control
    return control[tags.open], control[tags.close]


def test_reserved_ids_come_before_new_ones(tmp_path: Path) -> None:
    assert ids_of_tags("llama3", tmp_path) == (128_002, 128_003)
    byte = make_tokenizer("byte", tmp_path / "byte")
    reserved = (byte.control["<|reserved_0|>"], byte.control["<|reserved_1|>"])
    assert ids_of_tags("byte", tmp_path / "byte") == reserved
    assert with_tag_tokens(byte, TAGS).vocab_size == byte.vocab_size
    assert with_tag_tokens(make_tokenizer("llama3", tmp_path), TAGS).vocab_size == 128_256


@pytest.mark.parametrize("special", [True, False])
def test_reserved_tokens_count_by_their_number(special: bool, tmp_path: Path) -> None:
    rules = qwen_rules()
    rules["added_tokens"] += [added_token(265 + i, f"<unused{9 + i}>", special=special) for i in range(3)]
    rules["added_tokens"] += [added_token(268, "<unused0>", special=special)]
    tokenizer = with_tag_tokens(read_hf_tokenizer(write_folder(tmp_path, rules)), TAGS)
    assert (tokenizer.control["<think>"], tokenizer.control["</think>"]) == (268, 265)


def test_spare_rows_of_qwen2_5_come_behind_its_vocabulary(tmp_path: Path) -> None:
    assert ids_of_tags("qwen2_5", tmp_path) == (151_665, 151_666)  # its models have 151,936 rows or more


def test_an_added_token_of_that_text_is_taken_as_it_is(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("hf_qwen3", tmp_path)
    assert ids_of_tags("hf_qwen3", tmp_path) == (tokenizer.added_tokens["<think>"], tokenizer.added_tokens["</think>"])
    assert tokenizer.encode_text("<think>") == [tokenizer.added_tokens["<think>"]]
    assert len(with_tag_tokens(tokenizer, TAGS).encode_text("<think>")) > 1


def test_without_either_the_vocabulary_grows(tmp_path: Path) -> None:
    size = make_tokenizer("hf_qwen", tmp_path).vocab_size
    assert ids_of_tags("hf_qwen", tmp_path) == (size, size + 1)
    assert with_tag_tokens(make_tokenizer("hf_qwen", tmp_path), TAGS).vocab_size == size + 2


@pytest.mark.parametrize("kind", ["byte", "hf_qwen", "hf_qwen3"])
def test_a_folder_read_again_gives_the_tags_the_same_ids(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    before = with_tag_tokens(make_tokenizer(kind, tmp_path), TAGS)
    ids = {text: before.control[text] for text in (TAGS.open, TAGS.close)}
    write_tag_tokens(tmp_path, ids)
    plain = read_hf_tokenizer(tmp_path)
    assert {text: plain.added_tokens[text] for text in ids} == ids
    after = with_tag_tokens(plain, TAGS)
    assert (after.control, after.vocab_size) == (before.control, before.vocab_size)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    row = [ids["<think>"], *before.encode_text("the 12"), ids["</think>"]]
    assert theirs.encode("<think>the 12</think>", add_special_tokens=False) == row
    assert theirs.decode(row, skip_special_tokens=True) == "<think>the 12</think>"
    write_tag_tokens(tmp_path, ids)
    assert read_hf_tokenizer(tmp_path).fingerprint() == plain.fingerprint()


def test_a_tag_that_the_file_already_has_stays_as_it_is(tmp_path: Path) -> None:
    rules = qwen_rules()
    rules["added_tokens"].append(added_token(265, "<think>", special=True))
    write_tag_tokens(write_folder(tmp_path, rules), {"<think>": 265})
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == rules


def test_the_table_of_added_tokens_is_kept_in_step(tmp_path: Path) -> None:
    write_folder(tmp_path, qwen_rules(), **CHATML, added_tokens_decoder={"262": {"content": "<|endoftext|>"}})
    write_tag_tokens(tmp_path, {"<think>": 265})
    table = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {key: entry["content"] for key, entry in table.items()} == {"262": "<|endoftext|>", "265": "<think>"}
    write_tag_tokens(tmp_path / "empty", {"<think>": 265})  # nothing there, nothing to do


def llama(vocab_size: int = 128_256, *, tied: bool = True) -> Any:
    from torchtune.models.llama3_2 import llama3_2

    torch.manual_seed(0)
    return llama3_2(vocab_size, 1, 4, 2, 64, 32, intermediate_dim=96, tie_word_embeddings=tied)


TOKENS = torch.tensor([[5, 128_002, 7, 128_255]])


@pytest.mark.parametrize("tied", [True, False])
def test_growing_adds_mean_rows_and_changes_nothing_else(tied: bool) -> None:
    model = llama(tied=tied)
    before, weights = model(TOKENS), copy.deepcopy(model.state_dict())
    assert grow_vocabulary(model, 128_258) == 2
    grown = model.state_dict()
    assert grown.keys() == weights.keys()
    resized = {"tok_embeddings.weight"} if tied else {"tok_embeddings.weight", "output.weight"}
    for name, tensor in grown.items():
        if name in resized:
            assert tensor.shape == (128_258, 64)
            torch.testing.assert_close(tensor[-2:], weights[name].mean(0).expand(2, 64))
        torch.testing.assert_close(tensor[: len(weights[name])], weights[name], rtol=0, atol=0)
    after = model(TOKENS)
    assert after.shape[-1] == 128_258
    torch.testing.assert_close(after[..., :128_256], before)
    model(torch.tensor([[128_256, 128_257]])).sum().backward()
    assert model.tok_embeddings.weight.grad[-2:].abs().sum() > 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_growing_keeps_type_and_what_is_trained(tied: bool, trained: bool) -> None:
    model = llama(300, tied=tied).to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.requires_grad_(trained)
    grow_vocabulary(model, 302)
    assert {p.requires_grad for p in model.parameters()} == {trained}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model.tok_embeddings.num_embeddings, len(model.tok_embeddings.weight)) == (302, 302)
    if not tied:
        assert model.output.out_features == 302


@pytest.mark.parametrize("vocab_size", [0, 299, 300])
def test_a_vocabulary_that_is_large_enough_stays(vocab_size: int) -> None:
    model = llama(300)
    weight = model.tok_embeddings.weight
    assert grow_vocabulary(model, vocab_size) == 0
    assert model.tok_embeddings.weight is weight


@pytest.mark.parametrize("head", [nn.Linear(64, 300, bias=True), nn.Identity()])
def test_heads_that_cannot_grow(head: nn.Module) -> None:
    model = llama(300, tied=False)
    model.output = head
    with pytest.raises(UserError, match="tags_as: text"):
        grow_vocabulary(model, 302)
    assert model.tok_embeddings.num_embeddings == 300
