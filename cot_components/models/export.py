"""Any trained decoder as a Hugging Face folder that `transformers` loads: weights, config, tokenizer, generation
config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor
from torch.nn import SiLU

from cot_components.errors import UserError
from cot_components.files import read_object
from cot_components.models.gpt2 import GPT2Decoder
from cot_components.models.gpt2_convert import gpt2_hf_config, gpt2_tune_to_hf

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


class Family(NamedTuple):
    """How one architecture is spelled on the hub.

    config: model -> fields of its config.json.
    to_hf:  (torchtune state dict, that config) -> state dict in the hub's names and layout.
    """

    config: Callable[[Any], dict[str, Any]]
    to_hf: Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]


def save_pretrained(
    model: Any,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    tokenizer_dir: Path | None = None,
    base_config: Path | None = None,
    stop_ids: tuple[int, ...] = (),
    pad_id: int | None = None,
) -> Path:
    """Write the model as a Hugging Face folder.

    Args:
        model: a torchtune decoder of a known family (Llama 3.x, Qwen2.5, GPT-2).
        folder: created where it is missing.
        weights: state dict to write in place of the model's own (gathered from several processes).
        tokenizer_dir: folder whose tokenizer files are copied.
        base_config: config.json the run started from; fields the model does not decide are kept.
        stop_ids, pad_id: for generation_config.json.

    Raises:
        UserError: an architecture that is not known.
    """
    family = family_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    kept = read_object(base_config) if base_config else {}
    ours = family.config(model)
    config = {**kept, **ours, **_end_tokens(ours, kept, stop_ids)}
    config["dtype"] = config["torch_dtype"] = str(model.tok_embeddings.weight.dtype).removeprefix("torch.")  # new, old
    spelled = family.to_hf(_merged(model, model.state_dict() if weights is None else weights), config)
    tensors = {name: value.detach().cpu().contiguous() for name, value in spelled.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    generation = {"do_sample": False, "eos_token_id": list(stop_ids), "pad_token_id": pad_id}
    _write_json(
        folder / "generation_config.json", {key: value for key, value in generation.items() if value not in ([], None)}
    )
    for name in TOKENIZER_FILES:
        if tokenizer_dir is not None and (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, folder / name)
    return folder


def _end_tokens(ours: Mapping[str, Any], kept: Mapping[str, Any], stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """GPT-2's begin and end token, of which the model knows nothing: the base's, else the tokenizer's."""
    names = [name for name in ("bos_token_id", "eos_token_id") if name in ours]
    return {name: kept.get(name, stop_ids[0] if stop_ids else ours[name]) for name in names}


def _merged(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with LoRA adapters added to the weights they adapt; as it is where there are none."""
    adapted = adapted_modules(model)
    if not adapted:
        return dict(weights)
    from torchtune.modules.peft import get_merged_lora_ckpt

    rank, alpha = rank_and_alpha(next(iter(adapted.values())))
    copied = {f"{name}.weight": weights[f"{name}.weight"].clone() for name in adapted}  # it adds in place
    return get_merged_lora_ckpt({**weights, **copied}, rank=rank, alpha=alpha)


def adapted_modules(model: Any) -> dict[str, Any]:
    """LoRA and DoRA layers by name; empty for a model without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_a")}


def rank_and_alpha(module: Any) -> tuple[int, float]:
    """Rank and alpha of an adapted layer; `alpha / rank` scales what the adapter adds."""
    rank = module.lora_a.weight.shape[0]
    scaling = module.scaling if hasattr(module, "scaling") else module.alpha / module.rank
    return rank, scaling * rank


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def family_of(model: Any) -> Family:
    """The hub's spelling of a decoder, told by its parts.

    Raises:
        UserError: an architecture that is not known.
    """
    if isinstance(model, GPT2Decoder):
        return Family(gpt2_hf_config, lambda weights, config: gpt2_tune_to_hf(weights))
    first = model.layers[0]
    if _computes_as_llama(model) and getattr(first.attn.q_proj, "bias", None) is not None:
        return Family(_qwen2_config, _qwen2_to_hf)
    if _computes_as_llama(model) and type(first.attn.pos_embeddings).__name__ in _LLAMA_ROPES:
        return Family(_llama_config, _llama_to_hf)
    raise UserError(f"cannot write {type(model).__name__} as a Hugging Face folder; known: Llama 3.x, Qwen2.5, GPT-2")


def _computes_as_llama(model: Any) -> bool:
    """Whether shapes and names are not all that it shares with Llama: Gemma has other norms and another activation,
    Qwen3 normalises queries and keys.
    """
    attention, mlp = model.layers[0].attn, model.layers[0].mlp
    gated = getattr(mlp, "w3", None) is not None and isinstance(getattr(mlp, "activation", None), SiLU)
    plain = getattr(attention, "q_norm", None) is None and getattr(attention, "k_norm", None) is None
    return gated and plain and type(model.norm).__name__ == "RMSNorm"


def architecture(model: Any) -> dict[str, Any]:
    """What the shapes of a decoder's weights do not tell, in the hub's names; empty for one that is not known."""
    try:
        config = family_of(model).config(model)
    except UserError:
        return {}
    return {name: config[name] for name in _NOT_IN_SHAPES if name in config}


_NOT_IN_SHAPES = (
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
    "n_head",
    "layer_norm_epsilon",
)
_LLAMA_ROPES = ("RotaryPositionalEmbeddings", "Llama3ScaledRoPE")


def _decoder_config(model: Any) -> dict[str, Any]:
    attention, mlp = model.layers[0].attn, model.layers[0].mlp
    return {
        "hidden_size": attention.embed_dim,
        "intermediate_size": mlp.w1.weight.shape[0],
        "num_hidden_layers": len(model.layers),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "vocab_size": model.tok_embeddings.weight.shape[0],
        "max_position_embeddings": model.max_seq_len,
        "rms_norm_eps": model.norm.eps,
        "rope_theta": attention.pos_embeddings.base,
        "rope_scaling": None,
        "hidden_act": "silu",
        "tie_word_embeddings": hasattr(model.output, "tied_module"),
    }


def _llama_config(model: Any) -> dict[str, Any]:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_decoder_config(model)}
    config |= {"head_dim": model.layers[0].attn.head_dim, "attention_bias": False, "mlp_bias": False}
    rope = model.layers[0].attn.pos_embeddings
    if type(rope).__name__ == "Llama3ScaledRoPE":
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": float(rope.scale_factor),
            "low_freq_factor": float(rope.low_freq_factor),
            "high_freq_factor": float(rope.high_freq_factor),
            "original_max_position_embeddings": rope.old_context_len,
        }
    return config


def _llama_to_hf(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    from torchtune.models.convert_weights import tune_to_hf

    return tune_to_hf(
        dict(weights),
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        dim=config["hidden_size"],
        head_dim=config["head_dim"],
    )


def _qwen2_config(model: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_decoder_config(model),
        "use_sliding_window": False,
    }


def _qwen2_to_hf(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    from torchtune.models.qwen2._convert_weights import qwen2_tune_to_hf

    return qwen2_tune_to_hf(
        dict(weights),
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        dim=config["hidden_size"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )
