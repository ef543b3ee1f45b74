"""float8 products in the layers (torchao), for full fine-tuning on GPUs with float8 units: Ada, Hopper, newer.

Weights, gradients and optimizer stay in bf16; inputs, weights and output gradients of each product are scaled by their
largest entry and rounded before it. Checkpoints and exports are the same as without float8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchtune.modules import TransformerDecoder

from cot_components.errors import UserError
from cot_components.models.lora_layers import has_adapters

LEAST_CAPABILITY = (8, 9)
MULTIPLE = 16
"""float8 products need sizes that are multiples of this; other layers are left as they are."""


def check_float8(float8: bool, *, device: torch.device, dtype: str, compile: bool) -> None:
    """Refuse settings that cannot run, or would only be slower, before anything is loaded.

    Raises:
        UserError: no GPU with float8 units; without `dtype: bf16` or `compile: true`.
    """
    if not float8:
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        name = "the CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
        raise UserError(
            f"float8: true needs a GPU of compute capability 8.9 or more (Ada, Hopper), this run is on {name}; "
            "leave it out"
        )
    if dtype != "bf16" or not compile:
        raise UserError(
            "float8: true needs dtype: bf16 and compile: true; uncompiled, the rounding takes longer than the products "
            "save"
        )


def convert_to_float8(model: Any, *, emulate: bool = False) -> None:
    """Convert the linear layers of a torchtune decoder, in place, except head and embedding.

    The last layer's feed-forward is left out too: it only reads the rows of the loss, and their number is arbitrary
    (see `models.adapter`).

    Args:
        model: went through `adapt`; call this before activation checkpointing, compilation and sharding.
        emulate: compute ordinary products of rounded numbers, on any device: for tests.

    Raises:
        UserError: a model with adapters, whose frozen weights are not linear layers of torch; or without a layer of
            suitable size.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    if not isinstance(model, TransformerDecoder):
        raise UserError("float8: true is for the torchtune backbone; leave it out")
    if has_adapters(model):
        raise UserError("float8: true is for full fine-tuning; leave it out for a LoRA model")
    last_feed_forward, converted = f"layers.{len(model.layers) - 1}.mlp.", []

    def fits(module: nn.Module, name: str) -> bool:
        if not name.startswith("layers.") or name.startswith(last_feed_forward):
            return False
        chosen = isinstance(module, nn.Linear) and not any(size % MULTIPLE for size in module.weight.shape)
        converted.extend([name] if chosen else [])
        return chosen

    convert_to_float8_training(
        model, module_filter_fn=fits, config=Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    )
    if not converted:
        raise UserError(f"float8: true finds no layer whose sizes are multiples of {MULTIPLE}; leave it out")
