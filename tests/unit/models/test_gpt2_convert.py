"""GPT-2 folders in the Hugging Face layout: what `transformers` writes we read, what we write `transformers` reads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from cot_components.models.export import save_pretrained
from cot_components.models.gpt2 import gpt2
from cot_components.models.gpt2_convert import (
    GPT2Checkpointer,
    gpt2_from_config,
    gpt2_hf_to_tune,
    gpt2_tune_to_hf,
    load_gpt2,
)

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """A random checkpoint as `transformers` saves it."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=61, n_layer=2, n_head=3, n_embd=24, n_positions=32, bos_token_id=0, eos_token_id=0, n_inner=40
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def logits_of(folder) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


def test_reads_what_transformers_saves(folder) -> None:
    model = load_gpt2(folder).eval()
    assert (model(TOKENS) - logits_of(folder)).abs().max() < 5e-6
    assert all(p.requires_grad for p in model.parameters())
    assert model.layers[0].attn.attn_dropout == model.emb_dropout.p == model.layers[1].mlp_scale.p == 0.1
    assert load_gpt2(folder, dropout=0.0).emb_dropout.p == 0.0


def test_transformers_reads_what_we_save(tmp_path) -> None:
    torch.manual_seed(0)
    model = gpt2(
        vocab_size=61, num_layers=3, num_heads=2, embed_dim=16, intermediate_dim=40, max_seq_len=32, dropout=0.2
    ).eval()
    save_pretrained(model, tmp_path / "out")
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert (model(TOKENS) - theirs.eval()(TOKENS).logits).abs().max() < 5e-6
    assert theirs.config.eos_token_id == 60 and theirs.config.resid_pdrop == 0.2 and theirs.config.tie_word_embeddings


def test_a_round_trip_keeps_every_bit(folder, tmp_path) -> None:
    model = load_gpt2(folder)
    save_pretrained(model, tmp_path / "out")
    first, second = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert first.keys() == second.keys() and len(first) > 20
    assert all(torch.equal(first[name], second[name]) for name in first)
    state = model.state_dict()
    again = gpt2_hf_to_tune(gpt2_tune_to_hf(state))
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)


def rewritten(folder, change) -> None:
    """Apply `change` to the tensors of the folder."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["", "model.transformer.", "module.transformer."])
def test_any_prefix_a_head_of_its_own_and_old_buffers(folder, prefix: str) -> None:
    expected = logits_of(folder)

    def change(weights):
        renamed = {prefix + name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        renamed["lm_head.weight"] = weights["transformer.wte.weight"].clone()
        renamed[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
        renamed[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
        return renamed

    rewritten(folder, change)
    assert (load_gpt2(folder).eval()(TOKENS) - expected).abs().max() < 5e-6


def test_shards_and_pickles(folder) -> None:
    expected = logits_of(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert (load_gpt2(folder).eval()(TOKENS) - expected).abs().max() < 5e-6
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (load_gpt2(folder).eval()(TOKENS) - expected).abs().max() < 5e-6


def untie(weights):
    return {**weights, "lm_head.weight": weights["transformer.wte.weight"] + 1}


def lose_bias(weights):
    return {name: tensor for name, tensor in weights.items() if name != "transformer.h.1.mlp.c_fc.bias"}


def lose_all(weights):
    return {"something": torch.zeros(1)}


def add_top(weights):
    return {**weights, "transformer.extra.weight": torch.zeros(1)}


def add_inside(weights):
    return {**weights, "transformer.h.0.crossattention.c_attn.weight": torch.zeros(1, 3)}


def add_layer(weights):
    return {**weights, "transformer.h.7.ln_1.weight": torch.zeros(24)}


def cut_positions(weights):
    return {**weights, "transformer.wpe.weight": weights["transformer.wpe.weight"][:16].contiguous()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (untie, "tied head"),
        (lose_bias, r"lack 'layers\.1\.mlp\.w1\.bias'"),
        (lose_all, "not a GPT-2 checkpoint"),
        (add_top, "extra.weight' is not a tensor of GPT-2"),
        (add_inside, "crossattention.* is not a tensor of GPT-2"),
        (add_layer, r"layers\.7\.sa_norm\.weight.*no such layer"),
        (cut_positions, r"pos_embeddings\.weight' has shape \(16, 24\).*\(32, 24\)"),
    ],
)
def test_weights_that_are_not_this_model_are_named(folder, change, message: str) -> None:
    rewritten(folder, change)
    with pytest.raises(ValueError, match=message):
        load_gpt2(folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"attn_pdrop": 0.5}, "choose one `dropout`"),
    ],
)
def test_configs_that_are_not_this_model_are_named(folder, entry: dict, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        gpt2_from_config({**config, **entry})


def test_checkpointer_gives_the_state_dict_of_the_builder(folder) -> None:
    state = GPT2Checkpointer(str(folder)).load_checkpoint()["model"]
    model = gpt2(vocab_size=61, num_layers=2, num_heads=3, embed_dim=24, intermediate_dim=40, max_seq_len=32).eval()
    model.load_state_dict(state)
    assert (model(TOKENS) - logits_of(folder)).abs().max() < 5e-6


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_is_named(folder, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"PK\x03\x04 half a download")
    with pytest.raises(ValueError, match=f"{name}: not a readable checkpoint"):
        load_gpt2(folder)


def test_missing_files_are_named(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_gpt2(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"neither model\.safetensors"):
        load_gpt2(tmp_path)
