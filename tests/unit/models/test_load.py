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
GPT2 = {"_component_": "cot_components.models.families.gpt2.gpt2", "vocab_size": 60, "max_seq_len": 64, "num_layers": 1}
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
