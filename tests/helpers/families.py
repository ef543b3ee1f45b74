"""Small folders of every family as `transformers` writes them: logits that spread, norms that are not 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 60

ENDS = {"bos_token_id": 1, "eos_token_id": 2}
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, **ENDS}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32}
GPT2 = {"n_positions": 96, **ENDS}
LINEAR, BIASED = {"type": "linear", "factor": 2.5}, {"attention_bias": True, "mlp_bias": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}

CASES: dict[str, dict[str, Any]] = {
    "llama, tied, as SmolLM2": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 100_000.0},
    "llama, as TinyLlama": {"model_type": "llama", "rms_norm_eps": 1e-5, "num_key_value_heads": 1},
    "llama, as Llama 3.2": {"model_type": "llama", "tie_word_embeddings": True, "rope_scaling": LLAMA3},
    "llama, linear, biased": {"model_type": "llama", "rope_scaling": LINEAR, **BIASED, "head_dim": 16},
    "mistral": {"model_type": "mistral", "head_dim": 16, "sliding_window": None, "rope_theta": 1_000_000.0},
    "qwen2, tied": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1_000_000.0},
    "qwen2, yarn, as R1-Distill": {"model_type": "qwen2", "rope_scaling": YARN},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "rope_theta": 1_000_000.0},
    "qwen3, tied": {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1]},
    "olmo2": {"model_type": "olmo2", "rope_theta": 500_000.0},
    "phi3": {"model_type": "phi3"},
    "gpt2": {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, **GPT2},
}
"""Name -> what config.json says beyond `SIZES`."""

SLIDING = ["sliding_attention", "sliding_attention", "full_attention"]
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
MULTIPLIERS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

OTHERS: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8, "layer_types": SLIDING},
    "granite": {"model_type": "granite", "logits_scaling": 1.5, **MULTIPLIERS},
    "phi4-mini": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 96,
        "max_position_embeddings": 192,
        "tie_word_embeddings": True,
    },
    "lfm2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv"]},
    "cohere": {"model_type": "cohere", "logit_scale": 0.75},
    "qwen3_moe": {"model_type": "qwen3_moe", "head_dim": 16, **EXPERTS},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": SLIDING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_scaling": {**YARN, "truncate": False},
    },
}
"""The same of models that no family file fits."""

PADDED = ("lfm2", "gpt_oss")
"""Those in which packed rows would see each other: convolutions, attention with sinks."""


def write_case(folder: Path, case: str, *, seed: int = 0, small: bool = False, **changes: Any) -> Any:
    """A folder of one case; returns the model that `transformers` wrote, in fp32.

    `small` embeddings let the epsilon of the first norm be felt; a value of None in `changes` leaves the key out.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {**({} if case == "gpt2" else SIZES), **{**CASES, **OTHERS}[case], **changes}
    kept = {key: value for key, value in given.items() if value is not None or key == "sliding_window"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(kept))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
                parameter.mul_(0.01 if small and "embed" in name else 1.0)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder, max_shard_size="20KB" if case in OTHERS else "1GB")
    (folder / "config.json").write_text(json.dumps({**kept, "architectures": [type(model).__name__]}))
    return model


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tables of logits, in parts of the range of the second."""
    return float((found - expected).abs().max() / (expected.max() - expected.min()))
