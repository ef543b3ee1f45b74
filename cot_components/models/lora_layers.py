"""Find LoRA and DoRA layers in a model, torchtune's and those of `peft`, switch them off, and name their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cot_components.models.families.family import ADAPTER_PARTS

_PEFT_NAMES = {
    ".base_layer.": ".",
    ".lora_A.default.": ".lora_a.",
    ".lora_B.default.": ".lora_b.",
    ".lora_magnitude_vector.default.weight": ".magnitude",
}
_WRAPPER = "_checkpoint_wrapped_module."


def adapted_modules(model: Any) -> dict[str, Any]:
    """LoRA and DoRA layers by name; empty for a model without adapters."""
    named = model.named_modules()
    return {name.replace(_WRAPPER, ""): m for name, m in named if hasattr(m, "lora_a") or hasattr(m, "lora_A")}


def has_adapters(model: Any) -> bool:
    """Whether the model is a base with LoRA adapters."""
    return bool(adapted_modules(model))


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """A context in which the LoRA adapters are off, so the model is its base."""
    modules = adapted_modules(model).values()
    switches = [(m, "disabled" if hasattr(m, "lora_a") else "_disable_adapters") for m in modules]
    try:
        for module, switch in switches:
            setattr(module, switch, True)  # peft's own switch turns gradients off too, which FSDP does not follow
        yield
    finally:
        for module, switch in switches:
            setattr(module, switch, False)


def rank_and_alpha(module: Any) -> tuple[int, float]:
    """Rank and alpha of an adapted layer; `alpha / rank` scales the adapter's output."""
    if hasattr(module, "lora_A"):
        return module.r["default"], module.lora_alpha["default"]
    rank = module.lora_a.weight.shape[0]
    scaling = module.scaling if hasattr(module, "scaling") else module.alpha / module.rank
    return rank, scaling * rank


def plain_adapter_name(name: str) -> str:
    """The name of a tensor in torchtune's spelling of adapters and adapted layers; `peft` uses other names."""
    for theirs, ours in _PEFT_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def is_adapter(name: str) -> bool:
    """Whether this tensor belongs to an adapter."""
    return plain_adapter_name(name).endswith(ADAPTER_PARTS)
