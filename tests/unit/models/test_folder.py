"""Folders that are read, and folders that would load wrong: one sentence, from headers alone."""

import json
import re
import shutil
from functools import partial

import pytest
import torch
from families import distance, random_ids, write_case
from safetensors.torch import load_file, save_file

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.errors import UserError
from cot_components.models import check_folder, from_folder, tokenizer_node
from cot_components.models.adapter import adapt, logits

LLAMA, GPT2 = "llama, tied, as SmolLM2", "gpt2"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module", name="written")
def _written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    return {case: (folder / case, write_case(folder / case, case)) for case in (LLAMA, GPT2, "qwen3", "phi3")}


@pytest.fixture(name="copy")
def _copy(written, tmp_path):
    def copied(case=LLAMA):
        shutil.copytree(written[case][0], tmp_path / "model")
        return tmp_path / "model"

    return copied


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights), folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    shard_of = {name: (FIRST, SECOND)[place % 2] for place, name in enumerate(names)}
    for file in (FIRST, SECOND):
        save_file({n: weights[n] for n in names if shard_of[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"weight_map": shard_of}))


def same(folder, theirs):
    tokens = random_ids(2, 20)
    with torch.no_grad():
        return distance(logits(adapt(from_folder(path=str(folder), quiet=True)).eval(), tokens), theirs(tokens).logits)


@pytest.mark.parametrize("case", [LLAMA, GPT2, "qwen3", "phi3"])
def test_shards_are_read_as_one_file_is(copy, written, case):
    folder = copy(case)
    shard(folder)
    assert same(folder, written[case][1]) < 1e-4


@pytest.mark.parametrize(("case", "old"), [(LLAMA, "model."), (GPT2, "transformer.")])
@pytest.mark.parametrize("new", ["", "module."])
def test_any_prefix_old_buffers_and_a_copy_of_the_tied_head(copy, written, case, old, new):
    folder = copy(case)

    def change(weights):
        renamed = {new + name.removeprefix(old): tensor for name, tensor in weights.items()}
        embedding = next(name for name in renamed if name.endswith(("wte.weight", "embed_tokens.weight")))
        more = {"lm_head.weight": renamed[embedding].clone()}
        more[f"{new}h.0.attn.bias" if case == GPT2 else f"{new}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        return {**renamed, **more}

    rewrite(folder, change)
    assert same(folder, written[case][1]) < 1e-4


def test_one_line_says_what_was_found(written, capsys):
    model = from_folder(path=str(written[LLAMA][0]), max_seq_len=50)
    (line,) = capsys.readouterr().out.splitlines()
    count = sum(parameter.numel() for parameter in model.parameters())
    for said in ("LlamaForCausalLM", f"{count:,} parameters", "50 tokens", "tied head", "rope 100,000", "F32 on disk"):
        assert said in line
    assert model.max_seq_len == 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_in_the_default_dtype_and_not_those_of_the_file(copy, dtype):
    folder = copy()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        model = from_folder(path=str(folder), quiet=True)
    finally:
        torch.set_default_dtype(before)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.layers[0].attn.pos_embeddings.cache.dtype == torch.float32
    kept = model.tok_embeddings.weight.clone()
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))  # a file that changes changes nothing here
    assert torch.equal(model.tok_embeddings.weight, kept) and kept.float().abs().max() > 0


def test_the_tokenizer_of_a_folder(copy):
    from cot_components.config import build

    folder = copy()
    write_byte_tokenizer(folder)
    assert build(tokenizer_node(folder)).stop_tokens
    gpt2 = tokenizer_node(str(folder)) | {"path": "x"}
    assert gpt2["_component_"].endswith("hf_tokenizer")


YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
CONFIGS = [  # more of them in `refused_input.MODELS`
    (LLAMA, {"model_type": None}, "model_type None"),
    (LLAMA, {"model_type": "qwen2_vl", "vision_config": {"depth": 2}}, "vision"),
    (LLAMA, {"model_type": "qwen3_moe", "num_experts": 8}, "mixture of experts"),
    (LLAMA, {"rope_scaling": {"type": "llama3", "factor": 2.0}}, "low_freq_factor"),
    (LLAMA, {"rope_scaling": "yarn"}, "rope_scaling"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "rope type 'longrope'"),
    ("phi3", {"rope_scaling": YARN}, "rope type 'yarn'"),
    (LLAMA, {"hidden_size": "32", "rms_norm_eps": "1e-5"}, r"hidden_size must be int.*rms_norm_eps"),
    (LLAMA, {"num_attention_heads": 0}, r"config\.json: inconsistent sizes"),
    (LLAMA, {"num_key_value_heads": 3}, r"config\.json: num_heads"),
    (GPT2, {"activation_function": "relu"}, "activation_function 'relu'"),
    (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    (GPT2, {"tie_word_embeddings": False}, "tie_word_embeddings"),
    (GPT2, {"attn_pdrop": 0.5}, r"attn_pdrop.*model\.dropout"),
    (LLAMA, {"hidden_size": 64}, r"\[60, 32\] .*\[60, 64\]; .*; \d+ more"),
    (LLAMA, {"tie_word_embeddings": False}, r"no tensor 'lm_head\.weight'"),
    (LLAMA, {"num_hidden_layers": 2}, r"a tensor 'model\.layers\.2\..*'"),
]


@pytest.mark.parametrize(("case", "change", "said"), CONFIGS)
def test_a_config_that_is_not_supported_is_one_sentence(copy, case, change, said):
    folder = copy(case)
    edit(folder, **change)
    torchtune = {"backbone": "torchtune"}
    for refuse in (partial(check_folder, folder), partial(from_folder, path=str(folder), quiet=True)):
        with pytest.raises(UserError, match=said) as caught:
            refuse(**torchtune)
        assert "model" in str(caught.value) and "\n" not in str(caught.value)


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: {name: weights[name] for name in weights if name != UP}, UP),
        (lambda weights: {"something": torch.zeros(1)}, "embed_tokens.weight"),
        (lambda weights: {**weights, "model.extra.weight": torch.zeros(1)}, "model.extra.weight"),
        (lambda weights: {**weights, UP: (weights[UP] * 100).to(torch.int8)}, f"{UP}' holds I8"),
        (lambda weights: {**weights, UP: weights[UP].to(torch.float8_e4m3fn)}, "holds F8_E4M3"),
    ],
)
def test_weights_that_are_not_the_model_s_are_named(copy, change, said):
    folder = copy()
    rewrite(folder, change)
    with pytest.raises(UserError, match=re.escape(said)):
        check_folder(folder)


@pytest.mark.parametrize("case", [LLAMA, GPT2])
def test_a_head_that_is_not_the_embedding_is_refused_where_they_are_tied(copy, case):
    """transformers unties them without a word; a config that says so must not be followed half."""
    folder = copy(case)
    rewrite(folder, lambda weights: {**weights, "lm_head.weight": torch.ones(60, 32)})
    with pytest.raises(UserError, match=r"'lm_head\.weight'.*tied"):
        from_folder(path=str(folder), quiet=True)


def test_half_a_download(copy, tmp_path):
    folder = copy()
    shard(folder)
    check_folder(folder)
    index = json.loads((folder / INDEX).read_text())
    whole = (folder / SECOND).read_bytes()

    def refused(sentence):
        with pytest.raises(UserError, match=sentence):
            check_folder(folder)

    (folder / SECOND).write_bytes(whole[: len(whole) // 2])
    refused(f"{SECOND} is cut off")
    (folder / SECOND).write_bytes(b"")
    refused(f"{SECOND} is cut off")
    (folder / SECOND).unlink()
    refused(f"lacks {SECOND}, which {INDEX} names")
    (folder / SECOND).write_bytes(whole)
    name = next(name for name, file in index["weight_map"].items() if file == SECOND)
    for changed, sentence in (
        ({n: file for n, file in index["weight_map"].items() if n != name}, f"{INDEX} has no entry for '{name}'"),
        ({**index["weight_map"], name: FIRST}, f"'{name}' is in {FIRST}, where it is not"),
        ([1], "weight_map must map"),
    ):
        (folder / INDEX).write_text(json.dumps({"weight_map": changed}))
        refused(sentence)
    (folder / INDEX).write_text("{")
    refused(f"{INDEX} is not an index")
    (folder / INDEX).unlink()
    refused("neither")
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    refused(r"pytorch_model\.bin, but only safetensors are read")


def test_a_tokenizer_with_more_ids_than_rows(copy):
    folder = copy()
    write_byte_tokenizer(folder)
    with pytest.raises(UserError, match=r"tokenizer\.json.*383.*60"):
        check_folder(folder)


def test_rows_that_a_layer_does_not_see_whole_are_refused(tmp_path):
    write_case(tmp_path / "model", "mistral", sliding_window=40)
    assert from_folder(path=str(tmp_path / "model"), quiet=True).max_seq_len == 40
    with pytest.raises(UserError, match=r"max_seq_len 41: .*sliding window"):
        check_folder(tmp_path / "model", max_seq_len=41)
    edit(tmp_path / "model", sliding_window=None)
    assert from_folder(path=str(tmp_path / "model"), quiet=True).max_seq_len == 96


@pytest.mark.parametrize("lora", [{"rank": "4"}, {"dropout": 1.0}, {"targets": []}, {"quantize": True}])
def test_adapters_that_cannot_be_are_named_by_their_key(written, lora):
    with pytest.raises(UserError, match=rf"model\.lora\.{next(iter(lora))}"):
        from_folder(path=str(written[LLAMA][0]), lora=lora, quiet=True)


def test_one_dropout_for_three(copy):
    folder = copy(GPT2)
    edit(folder, attn_pdrop=0.5)
    check_folder(folder, dropout=0.25)
    model = from_folder(path=str(folder), dropout=0.25, quiet=True)
    assert model.layers[0].attn.attn_dropout == model.emb_dropout.p == model.layers[1].mlp_scale.p == 0.25
