"""Every family from a folder against `transformers`: logits, greedy text, packing, export, adapters, and each trap."""

import json
import shutil

import pytest
import torch
from commands import ROOT
from families import CASES, OTHERS, PADDED, VOCABULARY, distance, random_ids, write_case
from rows import random_rows
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cot_components.data.rows.batches import pack, pad
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.models import check_folder, from_folder
from cot_components.models.adapter import adapt, logits
from cot_components.models.export import save_pretrained
from cot_components.models.families import FAMILIES
from cot_components.models.folder import read_hub
from cot_components.models.generate import generate
from cot_components.models.peft_export import save_adapters

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft 0.18 asks for an old name

LORA = {"rank": 3, "alpha": 12.0}


@pytest.fixture(scope="module", params=[*CASES, *OTHERS])
def pair(request, tmp_path_factory):
    """A folder, the model of `transformers` that wrote it, and ours, on the backbone that fits."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    theirs = write_case(folder, request.param)
    return folder, theirs, adapt(from_folder(path=str(folder), quiet=True)).eval()


def test_every_family_has_a_case():
    assert {case["model_type"] for case in CASES.values()} == set(FAMILIES)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 7, 33, 96])
def test_logits(pair, length):
    _, theirs, ours = pair
    tokens = random_ids(2, length)
    expected = theirs(tokens).logits
    assert expected.std() >= 1
    assert distance(logits(ours, tokens), expected) < 1e-4


def test_greedy_text_with_the_cache(pair):
    _, theirs, ours = pair
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (1, 4, 9, 20)]
    found = generate(ours, prompts, max_new_tokens=12, stop_ids=[2], pad_id=0)
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": 2}
        answer = theirs.generate(ids, max_new_tokens=12, **how)[0, len(prompt) :].tolist()
        assert text == (answer[: answer.index(2)] if 2 in answer else answer)
    assert sum(map(len, found)) > 12


@torch.no_grad()
def test_packed_is_padded(pair):
    folder, _, ours = pair
    flat = random_rows(5, vocabulary=VOCABULARY).flat(range(5))
    batch = pack(flat, pad_id=0, num_tokens=len(flat.tokens) + 7)
    if ours.hub.family.model_type in PADDED:
        for refuse in (lambda: ours.loss(sft().fused, batch), lambda: check_folder(folder, packed=True)):
            with pytest.raises(UserError, match="packed_tokens"):
                refuse()
        return
    packed = ours.loss(sft().fused, batch).nll
    padded = ours.loss(sft().fused, pad(flat, pad_id=0)).nll
    assert torch.allclose(packed, padded, atol=2e-5) and len(packed) > 20


@torch.no_grad()
def test_what_is_written_is_what_was_read(pair, tmp_path):
    folder, theirs, ours = pair
    out = save_pretrained(ours, tmp_path / "out", stop_ids=(2,), pad_id=0)
    again, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before = {name: tensor for part in folder.glob("*.safetensors") for name, tensor in load_file(part).items()}
    after = load_file(out / "model.safetensors")
    assert len([*folder.glob("*.safetensors")]) > 1 or ours.hub.backbone == "torchtune", "shards, as on the hub"
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    tokens = random_ids(2, 20)
    assert torch.equal(again.eval()(tokens).logits, theirs(tokens).logits)
    config = {key: value for key, value in json.loads((out / "config.json").read_text()).items() if "dtype" not in key}
    assert config == json.loads((folder / "config.json").read_text())


def test_its_parts_tell_its_config(pair):
    """What a decoder is described as, where no folder tells: the folder's own config.json."""
    folder, _, ours = pair
    if ours.hub.backbone == "transformers":
        return
    hub = read_hub(folder)
    (folder.parent / "told").mkdir()
    (folder.parent / "told" / "config.json").write_text(json.dumps(hub.family.describe(ours)))
    told = read_hub(folder.parent / "told").facts
    shutil.rmtree(folder.parent / "told")
    for key in (*hub.family.defaults, "rope"):
        if key not in ("no_rope_layer_interval", "sliding_window", "n_inner"):
            assert told.get(key) == hub.facts.get(key), key


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_load_in_peft(pair, tmp_path, dora):
    from peft import PeftModel

    folder, theirs, _ = pair
    torch.manual_seed(1)
    ours = adapt(from_folder(path=str(folder), lora={**LORA, "dora": dora}, quiet=True)).eval()
    trained = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name or "magnitude" in name for name in trained)
    tokens = random_ids(2, 24)
    assert distance(logits(ours, tokens), theirs(tokens).logits) < 1e-4  # B begins at 0
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_adapters(ours, tmp_path / "adapter", weights=ours.state_dict(), base=str(folder))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    expected = logits(ours, tokens)
    assert distance(adapted(tokens).logits, expected) < 1e-4
    assert distance(theirs(tokens).logits, expected) > 1e-2
    save_pretrained(ours, tmp_path / "merged", stop_ids=(2,))
    assert distance(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(tokens).logits, expected) < 1e-4


def test_adapters_of_some_layers_alone(tmp_path):
    """Phi-3 stores queries, keys and values as one: an adapter of one of torchtune's three is a block of peft's one."""
    from peft import PeftModel
    from torchtune.models.phi3 import lora_phi3

    from cot_components.models import with_weights

    write_case(tmp_path / "hub", "phi3")
    sizes = {"vocab_size": VOCABULARY, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32}
    ours = lora_phi3(["q_proj", "v_proj"], **sizes, intermediate_dim=48, max_seq_len=96, lora_rank=2, lora_alpha=4)
    with_weights(model=ours, weights=str(tmp_path / "hub"))
    with torch.no_grad():
        for layer in ours.layers:
            layer.attn.q_proj.lora_b.weight.normal_(std=0.2)
            layer.attn.v_proj.lora_b.weight.normal_(std=0.2)
    save_adapters(ours, tmp_path / "adapter", weights=ours.state_dict())
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "hub").eval()
    tokens = random_ids(2, 24)
    before = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    expected = logits(adapt(ours).eval(), tokens)
    assert distance(adapted(tokens).logits, expected) < 1e-4 and distance(before, expected) > 1e-2


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


TRAPS = [
    ("llama, tied, as SmolLM2", {"rope_theta": 10_000.0}),
    ("llama, as Llama 3.2", {"rope_scaling": None}),
    ("llama, linear, biased", {"rope_scaling": None}),
    ("qwen2, yarn, as R1-Distill", {"rope_scaling": None}),
    ("llama, as TinyLlama", {"rms_norm_eps": 1e-6}),
    ("olmo2", {"rms_norm_eps": 1e-3}),
    ("qwen3", {"rope_theta": None}),
    ("smollm3", {"no_rope_layers": [1, 1, 1]}),
    ("smollm3", {"no_rope_layers": None}),
]


@torch.no_grad()
@pytest.mark.parametrize(("case", "change"), TRAPS)
def test_a_config_that_says_something_else_is_another_model(tmp_path, case, change):
    """The weights load all the same: what the config says is what tells, and its difference is no rounding."""
    theirs = write_case(tmp_path / "hub", case, small="rms_norm_eps" in change)
    tokens = random_ids(2, 90)
    expected = theirs(tokens).logits
    assert distance(logits(adapt(from_folder(path=str(tmp_path / "hub"), quiet=True)).eval(), tokens), expected) < 1e-4
    edit(tmp_path / "hub", **change)
    assert distance(logits(adapt(from_folder(path=str(tmp_path / "hub"), quiet=True)).eval(), tokens), expected) > 1e-2


def norms_after_positions(model):
    """Where torchtune has Qwen3's."""
    for layer in model.layers:
        attention = layer.attn
        attention.q_norm, attention.k_norm = attention.q_proj.norm, attention.k_proj.norm
        attention.q_proj, attention.k_proj = attention.q_proj.linear, attention.k_proj.linear


def norms_in_front(model):
    """Where Llama has them, and OLMo-2 behind the layers."""
    for layer in model.layers:
        layer.sa_norm, layer.sa_scale = layer.sa_scale, layer.sa_norm
        layer.mlp_norm, layer.mlp_scale = layer.mlp_scale, layer.mlp_norm


def tied(model):
    model.output.weight.copy_(model.tok_embeddings.weight)


UNTIED = [(case, tied) for case in ("llama, as TinyLlama", "qwen2, yarn, as R1-Distill", "qwen3", "olmo2")]


@torch.no_grad()
@pytest.mark.parametrize(("case", "change"), [("qwen3", norms_after_positions), ("olmo2", norms_in_front), *UNTIED])
def test_another_order_of_norms_or_a_tied_head_is_another_model(tmp_path, case, change):
    theirs = write_case(tmp_path / "hub", case)
    ours = adapt(from_folder(path=str(tmp_path / "hub"), quiet=True)).eval()
    tokens = random_ids(2, 40)
    assert distance(logits(ours, tokens), theirs(tokens).logits) < 1e-4
    change(ours)
    assert distance(logits(ours, tokens), theirs(tokens).logits) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_leaves_out_is_what_transformers_assumes(tmp_path, kind):
    """The table of defaults, and a folder whose config.json has nothing but sizes."""
    from transformers import AutoConfig

    whole = CONFIG_MAPPING[kind]().to_dict()
    whole["rope_theta"] = (whole.get("rope_parameters") or {}).get("rope_theta")
    for key, default in FAMILIES[kind].defaults.items():
        computed = key == "no_rope_layers" or (default is None and key == "head_dim")
        unused = key == "sliding_window" and whole.get("use_sliding_window") is False
        assert computed or unused or whole[key] == default, key

    case = next(name for name, case in CASES.items() if case["model_type"] == kind)
    left_out = dict.fromkeys(("rope_theta", "rope_scaling", "tie_word_embeddings", "no_rope_layers", "rms_norm_eps"))
    theirs = write_case(tmp_path / "hub", case, **left_out)
    assert AutoConfig.from_pretrained(tmp_path / "hub").model_type == kind
    tokens = random_ids(2, 60)
    ours = adapt(from_folder(path=str(tmp_path / "hub"), quiet=True)).eval()
    assert distance(logits(ours, tokens), theirs(tokens).logits) < 1e-4


def test_the_docs_list_what_is_tested_here():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    table = ["| models | `model_type` |", "|---|---|"]
    table += [f"| {family.name} | `{kind}` |" for kind, family in FAMILIES.items()]
    assert "\n".join(table) in page


@torch.no_grad()
def test_a_base_of_four_bits(tmp_path):
    """The base is NF4, a state dict and an export are plain numbers, and what is exported is what was trained."""
    write_case(tmp_path / "hub", "qwen3", hidden_size=128, intermediate_size=256, head_dim=64)
    lora = {"rank": 2, "alpha": 4, "quantize": True, "targets": ["q_proj", "o_proj", "down_proj"]}
    ours = adapt(from_folder(path=str(tmp_path / "hub"), lora=lora, quiet=True)).eval()
    kinds = {name: type(parameter.data).__name__ for name, parameter in ours.named_parameters()}
    assert kinds["layers.0.attn.q_proj.linear.weight"] == kinds["layers.2.mlp.w2.weight"] == "NF4Tensor"
    assert kinds["layers.0.attn.v_proj.weight"] == "Tensor"
    for name, parameter in ours.named_parameters():
        if "lora_b" in name:
            parameter.normal_(std=0.1)
    state = ours.state_dict()
    assert {type(tensor).__name__ for tensor in state.values()} == {"Tensor"}
    out = save_pretrained(ours, tmp_path / "out", weights=state)
    tokens = random_ids(2, 30)
    expected = logits(ours, tokens)
    assert distance(AutoModelForCausalLM.from_pretrained(out).eval()(tokens).logits, expected) < 1e-4
    assert distance(AutoModelForCausalLM.from_pretrained(tmp_path / "hub").eval()(tokens).logits, expected) > 1e-2
