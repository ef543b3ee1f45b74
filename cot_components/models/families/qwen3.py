"""Qwen3, dense: each head's query and key is normalised before the rotary positions."""

from __future__ import annotations

from typing import Any

from cot_components.models.families.decoder import (
    LLAMA,
    MODULES,
    NORMED,
    build_decoder,
    complete,
    describe_decoder,
    sliding_window,
)
from cot_components.models.families.family import Family


def describe(model: Any) -> dict[str, Any]:
    """config.json of a decoder with Qwen3's parts."""
    kept = {key: value for key, value in describe_decoder(model).items() if key != "mlp_bias"}
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **kept, "use_sliding_window": False}


FAMILY = Family(
    name="Qwen3 (dense)",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    defaults={
        **{key: value for key, value in LLAMA.items() if key != "mlp_bias"},
        "vocab_size": 151_936,
        "intermediate_size": 22_016,
        "max_position_embeddings": 32_768,
        "head_dim": 128,
        "use_sliding_window": False,
        "sliding_window": 4096,
    },
    fixed={"hidden_act": ("silu",)},
    complete=complete,
    window=sliding_window,
    build=lambda config, max_seq_len, dropout: build_decoder(config, max_seq_len, dropout, normed="head"),
    describe=describe,
    modules={**MODULES, **NORMED},
)
