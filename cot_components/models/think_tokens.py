"""Think tags as single tokens: which ids they get, and room for them in a model that has none to spare."""

from __future__ import annotations

import itertools
import re

import torch
from torch import nn
from torchtune.modules import TiedLinear, TransformerDecoder

from cot_components.data.segments import Tags
from cot_components.data.text_tokenizer import TextTokenizer
from cot_components.errors import UserError

# `<|reserved_special_token_7|>` of Llama-3, `<|reserved_2|>`, `<unused5>` of Gemma, `<SPECIAL_20>` of Mistral
RESERVED = re.compile(r"<\|?(?:reserved(?:_special)?(?:_token)?_|unused_?|SPECIAL_)(\d+)\|?>")


def with_tag_tokens(tokenizer: TextTokenizer, tags: Tags) -> TextTokenizer:
    """The tokenizer with each tag as one control token.

    A tag's id is, in this order: that of an added token of this very text; the reserved token of the lowest number that
    is left; the first id behind the vocabulary. `vocab_size` of the result is what the model must have.
    """
    reserved = sorted((int(m[1]), i) for text, i in tokenizer.control.items() if (m := RESERVED.fullmatch(text)))
    spare = itertools.chain((i for _, i in reserved), itertools.count(tokenizer.vocab_size))
    given = tokenizer.added_tokens
    return tokenizer.with_control(
        {text: given[text] if text in given else next(spare) for text in (tags.open, tags.close)}
    )


@torch.no_grad()
def grow_vocabulary(model: TransformerDecoder, vocab_size: int) -> int:
    """Give embedding and head `vocab_size` rows, in place; new rows are the mean of the old. Returns their number.

    Tied, untied and frozen weights stay so, dtype and device too.
    Raises UserError for a head that is neither tied nor a plain Linear.
    """
    embedding, head = model.tok_embeddings, model.output
    added = vocab_size - embedding.num_embeddings
    if added <= 0:
        return 0
    if isinstance(head, nn.Linear) and head.bias is None:
        head.weight, head.out_features = _with_mean_rows(head.weight, added), vocab_size
    elif not isinstance(head, TiedLinear):
        raise UserError(f"cannot grow a head of type {type(head).__name__}: set tags_as: text")
    embedding.weight, embedding.num_embeddings = _with_mean_rows(embedding.weight, added), vocab_size
    return added


def _with_mean_rows(weight: nn.Parameter, added: int) -> nn.Parameter:
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return nn.Parameter(torch.cat([weight, mean.expand(added, -1)]), requires_grad=weight.requires_grad)
