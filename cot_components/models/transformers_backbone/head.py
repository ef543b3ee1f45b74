"""Measures what a `transformers` class computes between its last hidden state and its logits.

The class's forward runs with a body that returns known hidden states and a head that returns known logits. If the
result is a multiple of these (Granite, Cohere), the factor is folded into the hidden states; anything else (a cap, as
in Gemma 2) is refused. The model's weights are not used, so they may be on a meta device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cot_components.errors import UserError
from cot_components.models.transformers_backbone.library import reason

TOLERANCE = 1e-5
_WORDS = ("softcap", "logit_scale", "logits_scaling", "lm_head_multiplier")


def measure_head(net: Any) -> float:
    """The factor `s` of `logits = s * hidden @ W^T`.

    Args:
        net: a `*ForCausalLM`.

    Raises:
        UserError: the logits are not of this form.
    """
    kind, head = type(net).__name__, net.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(f"the head of {kind} is a {type(head).__name__}, but the loss needs a linear map")
    if head.bias is not None:
        raise UserError(f"the head of {kind} has a bias; the loss needs a head that is a sum of linear maps")
    hidden, table = _powers(head.in_features), 1024 * _powers(head.out_features)
    read: list[Tensor] = []

    def project(x: Tensor) -> Tensor:
        read.append(x)
        return table.clone()

    try:
        with _replaced(net.base_model, _body(hidden)), _replaced(head, project), torch.no_grad():
            logits = net(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False).logits
        before, after = _factor(read[0].to("cpu"), hidden), _factor(logits, table)
    except Exception as error:  # whatever a class does with unexpected values
        raise UserError(f"{kind}: cannot determine what it does to its logits ({reason(error)})") from error
    if before is None or after is None:
        keys = [f"{k} {v}" for k, v in net.config.to_dict().items() if any(w in k for w in _WORDS) and v is not None]
        known = f" ({', '.join(keys)})" if keys else ""
        raise UserError(f"{kind} caps or shifts its logits{known}, but the loss needs a head that is a linear map")
    return before * after


def _powers(size: int) -> Tensor:
    """`[1, 1, size]`: numbers of both signs that every number format represents exactly."""
    places = torch.arange(size)
    return (2.0 ** (places % 9 - 4) * (1 - 2 * (places % 2)))[None, None]


def _body(hidden: Tensor) -> Any:
    from transformers.modeling_outputs import MoeModelOutputWithPast

    return lambda *args, **kwargs: MoeModelOutputWithPast(last_hidden_state=hidden)


def _factor(found: Tensor, given: Tensor) -> float | None:
    """`found / given` if that is the same positive number everywhere, else None."""
    if found.shape != given.shape:
        return None
    ratios = found.float() / given
    factor = float(ratios.mean())
    return factor if factor > 0 and float((ratios - factor).abs().max()) <= TOLERANCE * factor else None


@contextmanager
def _replaced(module: Any, forward: Any) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
