"""The only file that depends on the internals of torchtune's `TransformerDecoder`: hidden states, the head as plain
weights, the loss inside the model.

`adapt(model)` leaves the model's state dict and logits unchanged (bit for bit) and adds two entry points:

- `model.loss(loss, batch)`: hidden states and the fused loss inside the root's forward, the only place where FSDP2 has
  the head's whole weight (`training.distributed.shard` registers these methods; on one process they are ordinary ones).
- `model.next_logits(tokens, ...)`: logits of the last position only, for generation.

Values that no head reads are not computed: after the last attention, positions are independent, so the last layer's
feed-forward runs on the rows of the loss only. This is exact, and saves forward and backward of a layer's larger half
for every token without a label.

Packed batches are longer than any row; each row attends only to itself (`cot_components.models.attention`).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchtune.modules import MultiHeadAttention, TransformerDecoder, TransformerSelfAttentionLayer

from cot_components.data.rows.batches import Batch
from cot_components.errors import UserError
from cot_components.losses.types import Head, Pairs
from cot_components.models.attention import attend, document_mask
from cot_components.models.kv_cache import attention
from cot_components.models.rms_norm import normalise_in_few_passes
from cot_components.models.rope import rotate_as_complex

FORWARD_METHODS = ("loss", "next_logits")
"""Methods that run the model's forward: with FSDP2 they must be registered after sharding."""

PADDING = "the tokenizer's pad_token"


def check_token_id(model: Any, token_id: int, what: str) -> None:
    """Raises UserError for an id without an embedding in the model; `what` is the thing with that id."""
    known = model.tok_embeddings.num_embeddings
    if token_id >= known:
        raise UserError(
            f"{what} has token id {token_id}, the model has only {known} ids; is the tokenizer the model's own?"
        )


def adapt(model: nn.Module) -> nn.Module:
    """Bind the hidden-state and loss entry points to a torchtune decoder, in place; other decoders already have them.

    Args:
        model: a `torchtune.modules.TransformerDecoder` (plain, tied or LoRA head), or one with the same interface, such
            as `cot_components.models.transformers_backbone.decoder.TransformersDecoder`.

    Raises:
        UserError: a head that is not a sum of linear maps (bias, soft cap).
    """
    head_of(model)
    if not isinstance(model, TransformerDecoder):
        return model
    model.unembed = types.MethodType(_stop_before_head, model)  # type: ignore[assignment]
    model.loss = types.MethodType(loss_of_batch, model)  # type: ignore[assignment]
    model.next_logits = types.MethodType(_next_logits, model)  # type: ignore[assignment]
    model._validate_inputs = types.MethodType(_validate_inputs, model)  # type: ignore[assignment]
    last: Any = model.layers[-1]  # type: ignore[index]
    if type(last).forward is TransformerSelfAttentionLayer.forward:
        last.forward = types.MethodType(_last_layer, last)
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "_attention_call")]
    for module in attentions:
        module._attention_call = partial(attend, module._attention_call)
        if type(module).forward is MultiHeadAttention.forward:
            module.forward = types.MethodType(attention, module)
    rotate_as_complex(model)
    normalise_in_few_passes(model)
    return model


def head_of(model: nn.Module) -> Head:
    """The output projection of a torchtune decoder as plain weights.

    Raises:
        UserError: the head has a bias or is of an unknown kind.
    """
    head: Any = model.output
    if getattr(head, "tied_module", None) is not None:
        return head.tied_module.weight
    if getattr(head, "bias", None) is not None:
        raise UserError(
            f"the output layer ({type(head).__name__}) has a bias; the loss needs a head that is a sum of linear maps"
        )
    if hasattr(head, "magnitude"):
        raise UserError("the output layer is a DoRA layer, which is not linear in its weight; set apply_lora_to_output")
    if hasattr(head, "lora_a"):
        return head.weight if head.disabled else _lora_pairs(head)
    if isinstance(head, nn.Linear):
        return head.weight
    raise UserError(
        f"the output layer ({type(head).__name__}) is not a linear map; plain, tied and LoRA heads are supported"
    )


def _lora_pairs(head: Any) -> Callable[[Tensor], Pairs]:
    def pairs(hidden: Tensor) -> Pairs:
        low_rank = head.lora_a(head.dropout(hidden)) * (head.alpha / head.rank)
        return [(hidden, head.weight), (low_rank, head.lora_b.weight)]

    return pairs


def _stop_before_head(model: Any, hidden: Tensor) -> Tensor:
    """Replaces `unembed`, the last line of torchtune's forward; module-level so that `deepcopy` rebinds it."""
    return model.norm(hidden)


def _last_layer(
    layer: Any,
    x: Tensor,
    *,
    mask: Any = None,
    input_pos: Tensor | None = None,
    encoder_input: Tensor | None = None,
    encoder_mask: Tensor | None = None,
) -> Tensor:
    """torchtune's self-attention layer with its feed-forward on some rows only; other rows skip it.

    The rows, indices into `[B * T]`, are passed as `encoder_input`, the one argument that torchtune's decoder passes to
    its layers and a self-attention layer ignores. It is an argument rather than an attribute because activation
    checkpointing calls the layer again with the same arguments. None is all rows.
    """
    attended = layer.sa_norm(x)
    hidden = layer.sa_scale(layer.attn(attended, attended, mask=mask, input_pos=input_pos)) + x
    if encoder_input is None:
        return hidden + layer.mlp_scale(layer.mlp(layer.mlp_norm(hidden)))
    flat = hidden.flatten(0, 1)
    fed = layer.mlp_scale(layer.mlp(layer.mlp_norm(flat.index_select(0, encoder_input))))
    return flat.index_add(0, encoder_input, fed.to(flat.dtype)).view_as(hidden)  # autocast keeps sums in fp32


def _validate_inputs(model: Any, seq_len: int, **inputs: Any) -> None:
    """torchtune's own check, but per row: a packed batch may be longer than the context, because none of its rows
    is."""
    packed = inputs.get("mask") is not None and not isinstance(inputs["mask"], Tensor)
    type(model)._validate_inputs(model, min(seq_len, model.max_seq_len) if packed else seq_len, **inputs)


def hidden_states(model: Any, batch: Batch, rows: Tensor | None = None) -> Tensor:
    """The head's input, `[B * T, d]`; call it inside the forward of an FSDP root, like everything that runs the model.

    With `rows`, int64 `[n]`, only those of the `B * T` are valid; the others must not be used. It does not call
    `model(...)`, because the hooks of FSDP must run only once.
    """
    masks = getattr(model, "document_mask", document_mask)
    mask = None if batch.documents is None else masks(batch.documents, batch.tokens.device)
    if rows is not None and _is_compiled(model.layers[-1]):
        torch._dynamo.maybe_mark_dynamic(rows, 0)  # their number changes every time: one graph for all
    return model.forward(batch.tokens, mask=mask, input_pos=batch.input_pos, encoder_input=rows).flatten(0, 1)


def _is_compiled(layer: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in (layer, *layer.children()))


def loss_of_batch(
    model: Any,
    loss: Callable[..., Any],
    batch: Batch,
    *,
    labels: Tensor | None = None,
    rows: Tensor | None = None,
    reference: Callable[[Any, Batch], Any] | None = None,
) -> Any:
    """`loss` on one micro-batch.

    Args:
        loss: `Loss.fused`.
        batch: the micro-batch.
        labels, rows: instead of the batch's own, to measure tokens that are not trained on; weights are then 1.
        reference: called with the model and the batch for the loss's second distribution.
    """
    columns = {"roles": batch.roles.flatten(), "sample": batch.sample.flatten()}
    if batch.groups is not None:
        columns["groups"] = batch.groups.flatten()
    rows = batch.rows if rows is None else rows
    return loss(
        hidden_states(model, batch, rows),
        head_of(model),
        (batch.labels if labels is None else labels).flatten(),
        batch.weights.flatten() if labels is None else None,
        rows=rows,
        columns=columns,
        reference=None if reference is None else reference(model, batch),
    )


def _next_logits(model: Any, tokens: Tensor, *, mask: Any = None, input_pos: Tensor | None = None) -> Tensor:
    """Logits of the last position, fp32 `[B, V]`."""
    last = torch.arange(1, tokens.shape[0] + 1, device=tokens.device) * tokens.shape[1] - 1
    hidden = model.forward(tokens, mask=mask, input_pos=input_pos, encoder_input=last)
    return model.output(hidden[:, -1:]).float().squeeze(1)


@torch.no_grad()
def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """All logits of an adapted model, fp32 `[B, T, V]`: slow, for tests and notebooks."""
    return model.output(model(tokens)).float()  # type: ignore[operator]
