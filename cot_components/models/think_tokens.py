"""Room for new tokens in a model whose vocabulary has none to spare."""

from __future__ import annotations

import torch
from torch import nn
from torchtune.modules import TiedLinear, TransformerDecoder

from cot_components.errors import UserError


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
