"""Qwen2 and 2.5, with Qwen2.5-Math and R1-Distill-Qwen: a Llama whose queries, keys and values have biases."""

from __future__ import annotations

from typing import Any

from cot_components.models.families.decoder import (
    LLAMA,
    MODULES,
    build_decoder,
    complete,
    describe_decoder,
    sliding_window,
)
from cot_components.models.families.family import Family


def describe(model: Any) -> dict[str, Any]:
    """config.json of a decoder with Qwen2's parts."""
    common = describe_decoder(model)
    kept = {key: value for key, value in common.items() if key not in ("attention_bias", "mlp_bias", "head_dim")}
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **kept, "use_sliding_window": False}


FAMILY = Family(
    name="Qwen2 and 2.5, Qwen2.5-Math, R1-Distill-Qwen",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    defaults={
        **{key: value for key, value in LLAMA.items() if key not in ("attention_bias", "mlp_bias")},
        "vocab_size": 151_936,
        "intermediate_size": 22_016,
        "max_position_embeddings": 32_768,
        "use_sliding_window": False,
        "sliding_window": 4096,
    },
    fixed={"hidden_act": ("silu",)},
    complete=complete,
    window=sliding_window,
    build=lambda config, max_seq_len, dropout: build_decoder(config, max_seq_len, dropout, biased=("q", "k", "v")),
    describe=describe,
    modules=MODULES,
)
