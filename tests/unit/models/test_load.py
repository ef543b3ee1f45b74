"""Starting weights that would load into another model without a word are refused in one sentence."""

import json

import pytest
import torch

from cot_components.config import build
from cot_components.errors import UserError
from cot_components.models.adapter import logits
from cot_components.models.export import save_pretrained
from cot_components.models.load import check_start, load_model, weights_key

SHAPE = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 32, "intermediate_dim": 48}
PLAIN = {"_component_": "torchtune.models.llama3.llama3", "vocab_size": 60, "max_seq_len": 64, **SHAPE}
SCALED = {**PLAIN, "_component_": "torchtune.models.llama3_1.llama3_1"}
QWEN = {**PLAIN, "_component_": "torchtune.models.qwen2.qwen2"}
GPT2 = {"_component_": "cot_components.models.gpt2", "vocab_size": 60, "max_seq_len": 64, "num_layers": 1}
GPT2 |= {"num_heads": 2, "embed_dim": 32}


def load(model, folder=None):
    given = model if folder is None else {"_component_": WITH, "model": model, "weights": str(folder)}
    return load_model(given, device=torch.device("cpu"), dtype=torch.float32)


WITH = "cot_components.models.with_weights"


def edit(folder, without=(), **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in without}))


@pytest.mark.parametrize("model", [PLAIN, SCALED, QWEN, GPT2])
def test_a_builder_s_model_with_a_folder_s_weights(tmp_path, model):
    ours = build(model)
    folder = save_pretrained(ours, tmp_path / "hub")
    check_start({"_component_": WITH, "model": model, "weights": str(folder)})
    loaded = load(model, folder)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
    assert loaded.hub.path == folder


@pytest.fixture(name="plain")
def _plain(tmp_path):
    return save_pretrained(build(PLAIN), tmp_path / "hub")


@pytest.mark.parametrize(("here", "there"), [(PLAIN, QWEN), (QWEN, PLAIN), (GPT2, PLAIN), (PLAIN, GPT2)])
def test_a_model_of_another_family_is_refused(tmp_path, here, there):
    with pytest.raises(UserError, match=r"is not the model|model\._component_"):
        load(here, save_pretrained(build(there), tmp_path / "hub"))


def test_all_that_differs_is_in_one_message(tmp_path):
    folder = save_pretrained(build(SCALED), tmp_path / "hub")
    edit(folder, rms_norm_eps=1e-6, rope_theta=123.0, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    with pytest.raises(UserError) as caught:
        load(PLAIN, folder)
    for name in ("rms_norm_eps 1e-06", "rope_theta 123.0", "rope_type 'llama3'", "num_attention_heads 4"):
        assert name in str(caught.value)


@pytest.mark.parametrize("eps", [1.0001e-5, 1e-6])
def test_a_float_that_went_through_fp32_is_the_same(plain, eps):
    edit(plain, rms_norm_eps=9.999999747378752e-06)
    load(PLAIN, plain)
    edit(plain, rms_norm_eps=eps)
    with pytest.raises(UserError, match="rms_norm_eps"):
        load(PLAIN, plain)


def test_a_key_that_is_missing_is_what_transformers_assumes(plain):
    """rope_theta 10000 and eps 1e-6: not what torchtune's builder has."""
    edit(plain, without=("rope_theta", "rms_norm_eps"))
    with pytest.raises(UserError, match=r"rms_norm_eps 1e-06.*rope_theta 10000\.0"):
        load(PLAIN, plain)


def as_transformers_5(config):
    rope = {"rope_theta": config.pop("rope_theta"), **(config.pop("rope_scaling") or {"rope_type": "default"})}
    return {**config, "rope_parameters": rope}


@pytest.mark.parametrize("spelled", [dict, as_transformers_5])
@pytest.mark.parametrize(("there", "here"), [(PLAIN, SCALED), (SCALED, PLAIN)])
def test_scaled_positions_must_be_those_of_the_folder(tmp_path, there, here, spelled):
    folder = save_pretrained(build(there), tmp_path / "hub")
    config = spelled(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").write_text(json.dumps(config))
    load(there, folder)
    with pytest.raises(UserError, match="rope_type"):
        load(here, folder)


def test_a_factor_of_1_is_no_scaling(plain):
    builder = {"_component_": "torchtune.models.llama3_2.llama3_2", "scale_factor": 1, "tie_word_embeddings": False}
    load({**PLAIN, **builder}, plain)


def test_a_folder_is_a_whole_model_node(tmp_path):
    folder = save_pretrained(build(SCALED), tmp_path / "hub")
    node = {"_component_": "cot_components.models.from_folder", "path": str(folder), "lora": {"rank": 2, "dora": True}}
    check_start(node)
    model = load_model(node, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    plain = load(SCALED, folder)
    assert (logits(model, tokens) - logits(plain, tokens)).abs().max() < 0.05
    moved = folder.rename(tmp_path / "moved")
    key = weights_key({**node, "path": str(moved)})
    with pytest.raises(UserError, match="no folder"):
        check_start(node)
    edit(moved, rope_theta=7.0)
    assert weights_key({**node, "path": str(moved)}) != key  # other positions are another model
    with pytest.raises(UserError, match=r"model\.lora\.rank"):
        check_start({**node, "path": str(moved), "lora": {"rank": 0}})


def test_adapters_keep_their_draw_and_the_base_is_frozen(plain):
    node = {"_component_": "cot_components.models.from_folder", "path": str(plain), "lora": {}}
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
    first, same, other = (load_model(node, seed=seed, **cpu).state_dict() for seed in (1, 1, 2))
    name = "layers.0.attn.q_proj.lora_a.weight"
    assert torch.equal(first[name], same[name]) and not torch.equal(first[name], other[name])
    assert torch.equal(first["layers.0.attn.q_proj.weight"], other["layers.0.attn.q_proj.weight"])


ROPES = [{key: value} for key in ("rope_scaling", "rope_parameters") for value in ([1], "linear", 3)]


@pytest.mark.parametrize("content", [*ROPES, "[1]", "[" * 100_000, "{"])
def test_a_config_json_that_cannot_be_read_is_named(plain, content):
    if isinstance(content, dict):
        edit(plain, **content)
    else:
        (plain / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"hub/config\.json"):
        load(PLAIN, plain)


@pytest.mark.parametrize("change", [{"num_layers": -1}, {"vocab_size": 0}, {"num_heads": 0}])
def test_a_model_of_no_size_is_one_sentence(change):
    with pytest.raises(UserError, match=r"^model: .*(num_layers|weight|num_heads|ZeroDivisionError)"):
        load({**PLAIN, **change}, None)


def test_the_key_that_names_the_folder_is_said(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    for node, key in (
        ({"_component_": "cot_components.models.from_folder", "path": nowhere}, "path"),
        ({"_component_": WITH, "weights": nowhere, "model": PLAIN}, "weights"),
    ):
        with pytest.raises(UserError, match=rf"^model\.{key}: no folder .*nowhere"):
            check_start(node)
        with pytest.raises(UserError, match=rf"^reference\.model\.{key}: "):
            check_start(node, "reference.model")
    check_start(PLAIN)  # random weights
