"""OLMo-2: norms follow attention and feed-forward, and a token's queries (or keys) of all heads are normalised
together."""

from __future__ import annotations

from typing import Any

from cot_components.models.families.decoder import (
    LLAMA,
    MODULES,
    NORMED,
    build_decoder,
    complete,
    describe_decoder,
)
from cot_components.models.families.family import Family


def describe(model: Any) -> dict[str, Any]:
    """config.json of a decoder with OLMo-2's parts."""
    kept = {key: value for key, value in describe_decoder(model).items() if key != "mlp_bias"}
    return {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", **kept}


FAMILY = Family(
    name="OLMo-2",
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    defaults={
        **{key: value for key, value in LLAMA.items() if key != "mlp_bias"},
        "vocab_size": 50_304,
        "rms_norm_eps": 1e-5,
    },
    fixed={"hidden_act": ("silu",)},
    complete=complete,
    build=lambda config, max_seq_len, dropout: build_decoder(
        config, max_seq_len, dropout, normed="all", norms_after=True
    ),
    describe=describe,
    modules={
        **MODULES,
        **NORMED,
        "sa_scale": "post_attention_layernorm",
        "mlp_scale": "post_feedforward_layernorm",
    },
)
