"""GPT-2 checkpoints in the Hugging Face layout, in and out: `config.json` beside `model.safetensors`.

torchtune's checkpointer has no GPT-2 (its `ModelType` does not know it, and it looks for `hidden_size`), so the folder
is read here. The layouts differ in three ways: names, `Conv1D` (a linear layer stored transposed), and one matrix for
q, k and v.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torchtune.training import MODEL_KEY

from cot_components.data.templates import read_json
from cot_components.errors import UserError
from cot_components.files import read_object
from cot_components.models.gpt2 import GPT2Decoder, gpt2

State = Mapping[str, torch.Tensor]

_TOP_NAMES = {
    "wte.weight": "tok_embeddings.weight",
    "wpe.weight": "pos_embeddings.weight",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}
_LAYER_NAMES = {
    "ln_1": "sa_norm",
    "ln_2": "mlp_norm",
    "attn.c_proj": "attn.output_proj",
    "mlp.c_fc": "mlp.w1",
    "mlp.c_proj": "mlp.w2",
}
_QKV = ("attn.q_proj", "attn.k_proj", "attn.v_proj")
_TRANSPOSED = ("attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_BUFFERS = ("attn.bias", "attn.masked_bias")
_SIZE_KEYS = {
    "vocab_size": "vocab_size",
    "n_positions": "max_seq_len",
    "n_embd": "embed_dim",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_inner": "intermediate_dim",
    "layer_norm_epsilon": "norm_eps",
}
_USUAL = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


def gpt2_hf_to_tune(state: State) -> dict[str, torch.Tensor]:
    """`transformers` GPT-2 weights under torchtune's names.

    Any prefix is accepted (`transformer.`, none, `model.transformer.`), and so are the causal-mask buffers of old
    checkpoints and an absent `lm_head.weight`.

    Raises:
        UserError: no GPT-2 in it, a tensor that is not GPT-2's, or a head that is not tied to the token embedding.
    """
    embedding_names = [name for name in state if name.endswith("wte.weight")]
    if len(embedding_names) != 1:
        raise UserError(
            f"not a GPT-2 checkpoint: {len(embedding_names)} tensors are named '...wte.weight' instead of one"
        )
    prefix = embedding_names[0].removesuffix("wte.weight")
    converted: dict[str, torch.Tensor] = {}
    for full_name, tensor in state.items():
        if full_name.endswith("lm_head.weight"):
            if not torch.equal(tensor, state[embedding_names[0]]):
                raise UserError(f"'{full_name}' is not '{embedding_names[0]}': only GPT-2's tied head is supported")
            continue
        name = full_name.removeprefix(prefix)
        if not full_name.startswith(prefix) or not (name in _TOP_NAMES or name.startswith("h.")):
            raise UserError(f"'{full_name}' is not a tensor of GPT-2")
        if name in _TOP_NAMES:
            converted[_TOP_NAMES[name]] = tensor
        else:
            converted.update(_layer_to_tune(name, tensor))
    return converted


def _layer_to_tune(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    _, index, inner = name.split(".", 2)
    if inner in _BUFFERS:
        return {}
    module, kind = inner.rsplit(".", 1)
    if module == "attn.c_attn":
        thirds = tensor.chunk(3, dim=-1)
        return {
            f"layers.{index}.{projection}.{kind}": (third.T if kind == "weight" else third).contiguous()
            for projection, third in zip(_QKV, thirds, strict=True)
        }
    if module not in _LAYER_NAMES:
        raise UserError(f"'{name}' is not a tensor of GPT-2")
    return {f"layers.{index}.{_LAYER_NAMES[module]}.{kind}": tensor.T.contiguous() if inner in _TRANSPOSED else tensor}


def gpt2_tune_to_hf(state: State) -> dict[str, torch.Tensor]:
    """The inverse of `gpt2_hf_to_tune`, with the prefix `transformer.` and no `lm_head.weight` (it is tied)."""
    converted = {f"transformer.{theirs}": state[ours] for theirs, ours in _TOP_NAMES.items()}
    num_layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    for index in range(num_layers):
        ours, theirs = f"layers.{index}", f"transformer.h.{index}"
        for kind in ("weight", "bias"):
            thirds = [state[f"{ours}.{projection}.{kind}"] for projection in _QKV]
            converted[f"{theirs}.attn.c_attn.{kind}"] = torch.cat(
                [t.T if kind == "weight" else t for t in thirds], dim=-1
            )
            for their_name, our_name in _LAYER_NAMES.items():
                tensor = state[f"{ours}.{our_name}.{kind}"]
                transposed = f"{their_name}.{kind}" in _TRANSPOSED
                converted[f"{theirs}.{their_name}.{kind}"] = tensor.T if transposed else tensor
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def gpt2_hf_config(model: GPT2Decoder) -> dict[str, Any]:
    """`config.json` with which `transformers.AutoModelForCausalLM` builds the same model; begin and end token are the
    last row of the vocabulary, as in GPT-2.
    """
    first = model.layers[0]
    vocab_size, embed_dim = model.tok_embeddings.weight.shape
    dropout = first.attn.attn_dropout
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_positions": model.max_seq_len,
        "n_embd": embed_dim,
        "n_layer": len(model.layers),
        "n_head": model.num_heads,
        "n_inner": first.mlp.w1.out_features,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.norm.eps,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
        "resid_pdrop": dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": vocab_size - 1,
        "eos_token_id": vocab_size - 1,
    }


def gpt2_from_config(config: Mapping[str, Any], *, dropout: float | None = None) -> GPT2Decoder:
    """A freshly initialised model of the size a Hugging Face `config.json` describes.

    Args:
        dropout: replaces the three dropouts of the config.

    Raises:
        UserError: not GPT-2, a variant that is computed differently, or three different dropouts and no `dropout`.
    """
    _refuse_variants(config, "config.json")
    dropouts = {config.get(key, 0.1) for key in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}
    if dropout is None and len(dropouts) > 1:
        raise UserError("config.json: embd_pdrop, attn_pdrop and resid_pdrop differ, choose one `dropout` for all")
    sizes = {ours: config[theirs] for theirs, ours in _SIZE_KEYS.items() if theirs in config}
    return gpt2(**sizes, dropout=dropouts.pop() if dropout is None else dropout)


def _refuse_variants(config: Mapping[str, Any], where: str) -> None:
    if config.get("model_type", "gpt2") != "gpt2":
        raise UserError(f"{where}: model_type is {config['model_type']!r}, not 'gpt2'")
    activation = config.get("activation_function", "gelu_new")
    if activation not in _TANH_GELU:
        raise UserError(f"{where}: activation_function {activation!r} is not supported, GPT-2 has 'gelu_new'")
    for key, usual in _USUAL.items():
        if config.get(key, usual) != usual:
            raise UserError(f"{where}: {key} {config[key]} is not supported")


def load_gpt2(folder: str | Path, *, dropout: float | None = None) -> GPT2Decoder:
    """The model in a Hugging Face folder, fp32 or as stored.

    Args:
        folder: `config.json` and `model.safetensors` (or its shards and index, or `pytorch_model.bin`).
        dropout: replaces the config's.

    Raises:
        UserError: a file is missing, the config is not GPT-2's, or the tensors do not fit it; names file or tensor.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json, so this is no Hugging Face model folder")
    model = gpt2_from_config(read_object(folder / "config.json"), dropout=dropout)
    state = gpt2_hf_to_tune(_read_weights(folder))
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            raise UserError(f"{folder}: the weights lack '{name}'")
        if name not in expected or state[name].shape != expected[name]:
            wanted = (
                f"its config.json wants {tuple(expected[name])}"
                if name in expected
                else "its config.json has no such layer"
            )
            raise UserError(f"{folder}: '{name}' has shape {tuple(state[name].shape)}, {wanted}")
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


@dataclass(frozen=True)
class GPT2Checkpointer:
    """The starting weights of a GPT-2 folder for a config's `checkpointer` node, read as torchtune's checkpointers are.

    Args:
        checkpoint_dir: a folder as `load_gpt2` reads it; the `model` node says the size, its config.json only whether
            it is a GPT-2 that is computed as ours.
    """

    checkpoint_dir: str

    def load_checkpoint(self) -> dict[str, dict[str, torch.Tensor]]:
        """`{"model": state dict under torchtune's names}`. Raises UserError as `load_gpt2` does."""
        folder = Path(self.checkpoint_dir)
        _refuse_variants(read_json(folder / "config.json"), f"{folder}/config.json")
        return {MODEL_KEY: gpt2_hf_to_tune(_read_weights(folder))}


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return _read_file(single)
    if index.is_file():
        weights: dict[str, torch.Tensor] = {}
        named = read_object(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
            raise UserError(f"{index}: weight_map must name a file for every tensor")
        for shard in sorted(set(named.values())):
            weights.update(_read_file(folder / shard))
        return weights
    if (folder / "pytorch_model.bin").is_file():
        return _read_file(folder / "pytorch_model.bin")
    raise UserError(f"{folder}: neither model.safetensors (or its index) nor pytorch_model.bin")


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        return (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from error
