"""Starting weights that would load into another model without a word are refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cot_components.config import build
from cot_components.errors import UserError
from cot_components.models.export import save_pretrained
from cot_components.models.load import check_checkpointer, load_model

SHAPE = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 32, "intermediate_dim": 48}
PLAIN = {"_component_": "torchtune.models.llama3.llama3", "vocab_size": 60, "max_seq_len": 64, **SHAPE}
SCALED = {**PLAIN, "_component_": "torchtune.models.llama3_1.llama3_1"}
QWEN = {**PLAIN, "_component_": "torchtune.models.qwen2.qwen2"}
GPT2 = {"_component_": "cot_components.models.gpt2.gpt2", "vocab_size": 60, "max_seq_len": 64, "num_layers": 1}
GPT2 |= {"num_heads": 2, "embed_dim": 32}


def reader(folder, kind):
    if kind == "GPT2Checkpointer":
        return {"_component_": "cot_components.models.gpt2_convert.GPT2Checkpointer", "checkpoint_dir": str(folder)}
    node = {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(folder)}
    return node | {
        "checkpoint_files": ["model.safetensors"],
        "model_type": kind,
        "output_dir": str(folder.parent),
    }


def load(model, checkpointer):
    return load_model(model, checkpointer, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(
    ("model", "hub_kind", "right", "wrong"),
    [
        (PLAIN, "llama", ["LLAMA2", "LLAMA3", "LLAMA3_2", "MISTRAL"], ["QWEN2", "GEMMA2", "LAMA", "GPT2Checkpointer"]),
        (PLAIN, "mistral", ["MISTRAL", "LLAMA3"], ["QWEN2"]),
        (QWEN, "qwen2", ["QWEN2"], ["LLAMA3", "GPT2Checkpointer"]),
        (GPT2, "gpt2", ["GPT2Checkpointer"], ["LLAMA3", "QWEN2"]),
    ],
)
def test_the_type_must_be_that_of_the_folder(tmp_path, model, hub_kind, right, wrong):
    ours = build(model)
    folder = save_pretrained(ours, tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": hub_kind}))
    for kind in right:
        check_checkpointer(reader(folder, kind))
        loaded = load(model, reader(folder, kind)).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.state_dict().items())
    for kind in wrong:
        sentence = rf"{kind} does not read .*hub, whose config\.json says model_type '{hub_kind}'; .*{right[0]}"
        for refused in (check_checkpointer, lambda node: load(model, node)):
            with pytest.raises(UserError, match=sentence):
                refused(reader(folder, kind))


def test_a_tensor_that_torchtune_cannot_convert_is_one_sentence(tmp_path):
    folder = save_pretrained(build(PLAIN), tmp_path / "hub")
    weights = {**load_file(folder / "model.safetensors"), "model.layers.0.self_attn.q_norm.weight": torch.ones(16)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^checkpointer: Error converting .*self_attn\.q_norm\.weight"):
        load(PLAIN, reader(folder, "LLAMA3"))


def as_transformers_5(config):
    rope = {"rope_theta": config.pop("rope_theta"), **(config.pop("rope_scaling") or {"rope_type": "default"})}
    return {**config, "rope_parameters": rope}


@pytest.mark.parametrize("spelled", [dict, as_transformers_5])
@pytest.mark.parametrize(("there", "here"), [(PLAIN, SCALED), (SCALED, PLAIN)])
def test_scaled_positions_must_be_those_of_the_folder(tmp_path, there, here, spelled):
    folder = save_pretrained(build(there), tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(spelled(config)))
    load(there, reader(folder, "LLAMA3"))
    with pytest.raises(UserError, match=r"config\.json has rope_scaling .*, model\._component_ builds"):
        load(here, reader(folder, "LLAMA3"))


def test_a_gpt2_that_is_computed_otherwise_is_refused(tmp_path):
    folder = save_pretrained(build(GPT2), tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scale_attn_by_inverse_layer_idx": True}))
    with pytest.raises(UserError, match=r"hub/config\.json: scale_attn_by_inverse_layer_idx True is not supported"):
        load(GPT2, reader(folder, "GPT2Checkpointer"))


@pytest.mark.parametrize(("model", "kind"), [(PLAIN, "LLAMA3"), (GPT2, "GPT2Checkpointer")])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_weights_are_refused_by_name_and_type(tmp_path, model, kind, dtype):
    folder = save_pretrained(build(model), tmp_path / "hub")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight") and "proj" in name)
    weights[name] = torch.zeros_like(weights[name]).to(dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    spelled = {torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}[dtype]
    for refused in (check_checkpointer, lambda node: load(model, node)):
        with pytest.raises(UserError, match=rf"tensor '{name}' is {spelled}, a quantized weight"):
            refused(reader(folder, kind))


def test_a_mask_that_is_no_weight_may_be_of_any_type(tmp_path):
    folder = save_pretrained(build(GPT2), tmp_path / "hub")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load(GPT2, reader(folder, "GPT2Checkpointer"))


@pytest.mark.parametrize("value", [[1], "linear", 3])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_config_json_with_a_wrong_type_is_one_sentence(tmp_path, key, value):
    folder = save_pretrained(build(PLAIN), tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=rf"config\.json: {key} must be an object, it is "):
        load(PLAIN, reader(folder, "LLAMA3"))


@pytest.mark.parametrize("content", ["[1]", "[" * 100_000, "{"])
def test_a_config_json_that_is_none_is_one_sentence(tmp_path, content):
    folder = save_pretrained(build(PLAIN), tmp_path / "hub")
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"hub/config\.json"):
        check_checkpointer(reader(folder, "LLAMA3"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 0}, "model: .*llama3.llama3 builds no decoder with layers"),
        ({"num_layers": -1}, "model: .*llama3.llama3 builds no decoder with layers"),
        ({"vocab_size": 0}, "model: the weight 'tok_embeddings.weight' has no numbers"),
        ({"num_heads": 0}, "model: .*(num_heads|ZeroDivisionError)"),
    ],
)
def test_a_model_of_no_size_is_one_sentence(change, said):
    with pytest.raises(UserError, match=said):
        load({**PLAIN, **change}, None)
