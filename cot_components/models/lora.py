"""Adapters for any decoder with loaded weights: LoRA, DoRA, and either on a 4-bit base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.dtypes.nf4tensor import linear_nf4, to_nf4
from torchtune.modules.common_utils import reparametrize_as_dtype_state_dict_post_hook
from torchtune.modules.peft import DoRALinear, LoRALinear, get_adapter_params, set_trainable_params

from cot_components.config import check
from cot_components.errors import UserError
from cot_components.models.families import Family, family_of

ALL = "all"
"""Every linear layer except the head."""

NF4_BLOCK = 64 * 256
"""NF4 quantises whole blocks."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters: `W x + alpha / rank * B A x`, with A and B trained.

    Args:
        rank: rows of A.
        alpha: scale.
        targets: layers by the hub's names as `peft` takes them (`q_proj`, `o_proj`, `gate_proj`, `c_attn`, `lm_head`),
            or `all` for every one but the head.
        dropout: on A's input.
        dora: also train the norms of the rows (Liu et al. 2024, https://arxiv.org/abs/2402.09353).
        quantize: keep the adapted layers' weights as NF4, four bits each.

    Raises:
        UserError: a rank below 1, a dropout outside [0, 1), no target.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: str | Sequence[str] = ALL
    dropout: float = 0.0
    dora: bool = False
    quantize: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"model.lora.rank must be at least 1, got {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"model.lora.dropout must be in [0, 1), got {self.dropout}")
        if not self.targets:
            raise UserError("model.lora.targets names no layer")


def read_lora(given: Mapping[str, Any] | None) -> Lora | None:
    """The adapters in a config. Raises UserError for an unknown key or a value of the wrong type."""
    if given is None:
        return None
    check(Lora, given, "model.lora")
    return Lora(**given)


def add_adapters(model: Any, lora: Lora) -> None:
    """Replace the target layers by adapted ones, in place; all existing weights are unchanged and frozen.

    Raises:
        UserError: a target that the model lacks; a weight that NF4 cannot hold.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    hub_names = {name: _hub_module(family_of(model), name) for name in linear}
    wanted = {lora.targets} if isinstance(lora.targets, str) else {*lora.targets}
    known = {*hub_names.values()}
    if missing := wanted - known - {ALL}:
        raise UserError(f"model.lora.targets: no layer {sorted(missing)[0]!r}; there are {', '.join(sorted(known))}")
    for name, module in linear.items():
        if hub_names[name] in wanted or (ALL in wanted and name != "output"):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _adapted(module, lora, name))
    set_trainable_params(model, get_adapter_params(model))
    if lora.quantize:
        model._register_state_dict_hook(  # a state dict holds plain numbers
            partial(
                reparametrize_as_dtype_state_dict_post_hook,
                dtype=model.tok_embeddings.weight.dtype,
                offload_to_cpu=True,
            )
        )


def _hub_module(family: Family, name: str) -> str:
    return family.hub_name(f"{name}.weight").split(".")[-2]


class _DoRALinear(DoRALinear):
    """torchtune's layer scales the bias with the rows of the weight; the paper, `peft` and a merged export do not."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        if self.bias is None:
            return super().forward(x)
        base = linear_nf4(input=x, weight=self.weight) if self._quantize_base else F.linear(x, self.weight)
        if self.disabled:
            return base + self.bias
        identity = torch.eye(self.in_dim, device=x.device, dtype=x.dtype)
        added = self.lora_b(self.lora_a(identity)).T  # through the modules, whose weights FSDP gathers
        scale = self.magnitude / self._get_weight_norm(self.weight.to(x.dtype), added.detach()).detach()
        return scale * (base + self.scaling * self.lora_b(self.lora_a(self.dropout(x)))) + self.bias


def _adapted(linear: nn.Linear, lora: Lora, name: str) -> nn.Module:
    with torch.device("meta"):  # the base exists already
        made: Any = (_DoRALinear if lora.dora else LoRALinear)(
            linear.in_features,
            linear.out_features,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            use_bias=linear.bias is not None,
        )
    made.to_empty(device=linear.weight.device)
    made.to(linear.weight.dtype)
    made.initialize_parameters()
    weight = linear.weight.detach()
    if lora.quantize:
        if weight.numel() % NF4_BLOCK:
            raise UserError(
                f"model.lora.quantize: '{name}' has {weight.numel()} weights, but NF4 needs a multiple of {NF4_BLOCK}"
            )
        weight, made._quantize_base = to_nf4(weight), True
    made.weight, made.bias = nn.Parameter(weight), linear.bias
    if lora.dora:
        made.initialize_dora_magnitude()
    return made
