"""Phi-3 and Phi-4: a Llama that stores queries, keys and values as one matrix, and gate and up as another."""

from __future__ import annotations

from typing import Any

from cot_components.errors import UserError
from cot_components.models.families import decoder
from cot_components.models.families.family import Family


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """As Llama's; Phi-3's "yarn" means longrope.

    Raises:
        UserError: positions scaled by either.
    """
    done = decoder.complete(config)
    if done["rope"]["rope_type"] == "yarn":
        raise UserError("rope type 'yarn' means longrope for phi3, which is not supported")
    return done


def describe(model: Any) -> dict[str, Any]:
    """config.json of a decoder with Phi-3's parts."""
    left_out = ("attention_bias", "mlp_bias", "head_dim")
    kept = {key: value for key, value in decoder.describe_decoder(model).items() if key not in left_out}
    return {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", **kept}


FAMILY = Family(
    name="Phi-3 and Phi-4 (those without longrope)",
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    defaults={
        **{key: value for key, value in decoder.LLAMA.items() if key not in ("attention_bias", "mlp_bias")},
        "vocab_size": 32_064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "resid_pdrop": 0.0,
    },
    fixed={"hidden_act": ("silu",), "resid_pdrop": (0.0,)},
    complete=complete,
    window=lambda config: config["sliding_window"],
    build=lambda config, max_seq_len, dropout: decoder.build_decoder(config, max_seq_len, dropout, biased=()),
    describe=describe,
    modules={
        **decoder.MODULES,
        **{f"attn.{letter}_proj": "self_attn.qkv_proj" for letter in "qkv"},
        "mlp.w1": "mlp.gate_up_proj",
        "mlp.w3": "mlp.gate_up_proj",
    },
)
