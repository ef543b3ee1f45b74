"""SmolLM3: a Llama in which every fourth layer, or those that config.json lists, has no positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchtune.modules import TransformerDecoder

from cot_components.models.families import decoder
from cot_components.models.families.family import Family


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """As Llama's, with `no_rope_layers`: 1 for a layer that has positions, 0 for one without."""
    if config["no_rope_layers"] is None:
        every = config["no_rope_layer_interval"]
        config["no_rope_layers"] = [int((layer + 1) % every != 0) for layer in range(config["num_hidden_layers"])]
    return decoder.complete(config)


def build(config: Mapping[str, Any], max_seq_len: int, dropout: float | None) -> TransformerDecoder:
    """A decoder whose layers have positions where `no_rope_layers` says 1."""
    turned = {layer for layer, has_positions in enumerate(config["no_rope_layers"]) if has_positions}
    return decoder.build_decoder(config, max_seq_len, dropout, turned=turned)


def describe(model: Any) -> dict[str, Any]:
    """config.json of a decoder with SmolLM3's parts."""
    turned = [int(layer.attn.pos_embeddings is not None) for layer in model.layers]
    head = {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3"}
    return {**head, **decoder.describe_decoder(model), "no_rope_layers": turned}


FAMILY = Family(
    name="SmolLM3",
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    defaults={
        **decoder.LLAMA,
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "use_sliding_window": False,
        "sliding_window": None,
    },
    fixed={"hidden_act": ("silu",)},
    complete=complete,
    window=decoder.sliding_window,
    build=build,
    describe=describe,
    modules=decoder.MODULES,
)
