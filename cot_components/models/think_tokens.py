"""Think tags as single tokens: which ids they get, and how a model's vocabulary grows for them if necessary."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchtune.modules import TiedLinear

from cot_components.data.text.segments import Tags
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.data.text.tokenizer_json import new_token
from cot_components.errors import UserError

# `<|reserved_special_token_7|>` of Llama-3, `<unused5>` of Gemma, `<SPECIAL_2>` of Mistral, `<|placeholder1|>` of Phi-3
RESERVED = re.compile(r"<\|?(?:reserved(?:_special)?(?:_token)?_|unused_?|SPECIAL_|placeholder_?|dummy_?)(\d+)\|?>")


def with_tag_tokens(tokenizer: TextTokenizer, tags: Tags) -> TextTokenizer:
    """The tokenizer with each tag as one control token.

    A tag's id is, in this order: that of an existing token with its text; the lowest unused reserved token; the first
    id after the vocabulary. The model must have the result's `vocab_size`.
    """
    reserved = sorted((int(m[1]), i) for text, i in tokenizer.added_tokens.items() if (m := RESERVED.fullmatch(text)))
    spare = itertools.chain((i for _, i in reserved), itertools.count(tokenizer.vocab_size))
    given = {text: tokenizer.added_tokens.get(text, tokenizer.id_of(text)) for text in (tags.open, tags.close)}
    return tokenizer.with_control({text: next(spare) if i is None else i for text, i in given.items()})


def write_tag_tokens(folder: Path, ids: Mapping[str, int]) -> None:
    """Add tag tokens to `tokenizer.json` and `tokenizer_config.json` of a model folder, if they exist.

    A reserved token of the same id gets the tag's text. Reading the folder again gives the tags the same ids. They are
    not marked special, so that `decode(skip_special_tokens=True)` keeps them, as in published reasoning models.
    """
    for name, enter in (("tokenizer.json", _enter_rules), ("tokenizer_config.json", _enter_config)):
        file = folder / name
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            for text, i in ids.items():
                enter(content, text, i)
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _enter_rules(rules: dict[str, Any], text: str, token_id: int) -> None:
    if any(token["content"] == text for token in rules["added_tokens"]):
        return
    kept = [token for token in rules["added_tokens"] if token["id"] != token_id]
    rules["added_tokens"] = sorted([*kept, {"id": token_id, **new_token(text)}], key=lambda token: token["id"])


def _enter_config(config: dict[str, Any], text: str, token_id: int) -> None:
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"].setdefault(str(token_id), {}).update(new_token(text))


def is_tied(model: Any) -> bool:
    """Whether the head is the embedding: torchtune's `TiedLinear`, or a layer with the same weight."""
    return hasattr(model.output, "tied_module") or getattr(model.output, "weight", None) is model.tok_embeddings.weight


@torch.no_grad()
def grow_vocabulary(model: Any, vocab_size: int) -> int:
    """Give embedding and head `vocab_size` rows, in place; new rows are the mean of the old. Returns their number.

    Tied, untied and frozen weights stay so; dtype and device do not change. Raises UserError for a head that is neither
    tied nor a plain Linear.
    """
    embedding, head, tied = model.tok_embeddings, model.output, is_tied(model)
    added = vocab_size - embedding.num_embeddings
    if added <= 0:
        return 0
    if isinstance(head, nn.Linear) and head.bias is None:
        head.weight, head.out_features = _with_mean_rows(head.weight, added), vocab_size
    elif not isinstance(head, TiedLinear):
        raise UserError(f"cannot grow a head of type {type(head).__name__}: set tags_as: text")
    grown = head.weight if tied and isinstance(head, nn.Linear) else _with_mean_rows(embedding.weight, added)
    embedding.weight, embedding.num_embeddings = grown, vocab_size
    return added


def _with_mean_rows(weight: nn.Parameter, added: int) -> nn.Parameter:
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return nn.Parameter(torch.cat([weight, mean.expand(added, -1)]), requires_grad=weight.requires_grad)
