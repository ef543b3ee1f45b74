"""Convert a (possibly quantised) Llama in llama.cpp's GGUF format to a Hugging Face folder in bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cot_components.errors import UserError
from cot_components.models.families.family import as_halves

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""llama.cpp's names -> the hub's, inside of layers without `blk.N.`."""

CONTROL = 3
"""llama.cpp's type of a control token."""


def write_gguf_llama(gguf: Path, folder: Path) -> Path:
    """Write config.json, model.safetensors, tokenizer.json, tokenizer_config.json and generation_config.json.

    Args:
        gguf: of architecture llama, with a byte-level vocabulary and SmolLM's pre-tokenisation.
        folder: must exist.

    Raises:
        UserError: another kind of model or vocabulary; the package gguf is not installed.
    """
    try:
        from gguf import GGUFReader, dequantize
    except ModuleNotFoundError as error:
        raise UserError("reading GGUF needs the package gguf: pip install 'cot-components[get]'") from error

    reader = GGUFReader(gguf)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    kind, cut = facts["general.architecture"], facts.get("tokenizer.ggml.pre")
    if (kind, cut) != ("llama", "smollm"):
        raise UserError(f"{gguf} is a {kind} with pre-tokenizer {cut}; only llama with smollm's is converted")
    config = _config(facts)
    weights = {}
    for tensor in reader.tensors:
        numbers = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        name = _hub_name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp keeps neighbouring features together
            numbers = as_halves(numbers, config["head_dim"])
        weights[name] = numbers.to(torch.bfloat16).contiguous()
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", config)
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "generation_config.json", ends)
    _write_tokenizer(facts, folder)
    return folder


def _hub_name(name: str) -> str:
    *layer, module, _ = name.split(".")
    return f"{f'model.layers.{layer[1]}.' if layer else ''}{NAMES[module]}.weight"


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": width,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # through fp32 and back
        "rope_theta": facts["llama.rope.freq_base"],
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _write_tokenizer(facts: dict[str, Any], folder: Path) -> None:
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # as SmolLM's own: every digit is cut off first
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": facts["tokenizer.chat_template"],
        **{name: tokens[facts[f"tokenizer.ggml.{key}_token_id"]] for name, key in named.items()},
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
    }
    _write(folder / "tokenizer_config.json", config)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
