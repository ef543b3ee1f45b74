"""Adapters of `peft` in a `transformers` model."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from cot_components.errors import UserError
from cot_components.models.lora import ALL, Lora
from cot_components.models.transformers_backbone.library import INSTALL


def add_adapters(model: Any, lora: Lora) -> None:
    """Add adapters to the target layers, in place; all other weights are frozen.

    Raises:
        UserError: `peft` is not installed; 4-bit weights; the head; a target that the model lacks.
    """
    if lora.quantize:
        raise UserError("model.lora.quantize is for torchtune's decoders; the transformers backbone has no 4-bit base")
    linear = {
        name: name.rpartition(".")[2]
        for name, module in model.net.named_modules()
        if isinstance(module, nn.Linear) and module is not model.output
    }
    head = next(name for name, module in model.net.named_modules() if module is model.output)
    wanted = {lora.targets} if isinstance(lora.targets, str) else {*lora.targets}
    if head.rpartition(".")[2] in wanted:
        raise UserError(f"model.lora.targets: the transformers backbone has no adapters on the head, '{head}'")
    if missing := wanted - {*linear.values()} - {ALL}:
        known = ", ".join(sorted({*linear.values()}))
        raise UserError(f"model.lora.targets: no layer {sorted(missing)[0]!r}; there are {known}")
    chosen = [name for name, kind in linear.items() if kind in wanted or ALL in wanted]
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"model.lora: this backbone needs peft, which is not installed; {INSTALL}") from error
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=chosen,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses an outdated name of transformers
        inject_adapter_in_model(config, model.net)
