"""Mistral: a Llama whose tokens attend only within a sliding window.

The longest row is limited to the window here, so every row has full attention.
"""

from __future__ import annotations

from typing import Any

from cot_components.models.families.decoder import LLAMA, MODULES, build_decoder, complete, describe_decoder
from cot_components.models.families.family import Family


def describe(model: Any) -> dict[str, Any]:
    """config.json of a decoder with Mistral's parts, which do not reveal a window."""
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **describe_decoder(model)}


FAMILY = Family(
    name="Mistral",
    model_type="mistral",
    architecture="MistralForCausalLM",
    defaults={
        **{key: value for key, value in LLAMA.items() if key not in ("attention_bias", "mlp_bias")},
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    fixed={"hidden_act": ("silu",)},
    complete=complete,
    window=lambda config: config["sliding_window"],
    build=lambda config, max_seq_len, dropout: build_decoder(config, max_seq_len, dropout, biased=()),
    describe=describe,
    modules=MODULES,
)
