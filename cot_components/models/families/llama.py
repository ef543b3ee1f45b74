"""Llama 2 and 3.x, and models with their architecture: SmolLM2, TinyLlama, R1-Distill-Llama."""

from __future__ import annotations

from typing import Any

from cot_components.models.families.decoder import LLAMA, MODULES, build_decoder, complete, describe_decoder
from cot_components.models.families.family import Family


def describe(model: Any) -> dict[str, Any]:
    """config.json of any decoder with Llama's parts."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **describe_decoder(model)}


FAMILY = Family(
    name="Llama 2 and 3.x, SmolLM2, TinyLlama, R1-Distill-Llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    defaults=LLAMA,
    fixed={"hidden_act": ("silu",)},
    complete=complete,
    build=build_decoder,
    describe=describe,
    modules=MODULES,
)
