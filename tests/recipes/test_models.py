"""Models that recipes start from and leave: folders, adapters, builders; each learns, goes on, and is exported."""

import itertools
import json
import shutil

import pytest
import torch
from commands import CONFIGS
from families import distance, write_case
from omegaconf import OmegaConf
from safetensors.torch import load, load_file, save_file
from tiny_models import ADAPTERS, BF16, adapter_run
from tiny_runs import checkpoint, copied, differences, overrides_for, records, run, saved_steps

from cot_components.cli.main import main
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.models import from_folder
from cot_components.models.adapter import adapt, logits
from cot_components.models.load import load_model
from cot_components.runs.checkpoint import read_state

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft 0.18 asks for an old name

ANY = """
dataset.source=generated dataset.max_rows=80 dataset.max_seq_len=400 dataset_val=null evaluation.max_rows=2
evaluation.max_new_tokens=3 packed_tokens=768 gradient_accumulation_steps=1 optimizer.lr=1e-2 lr_scheduler=null
device=cpu dtype=fp32 save_every_n_steps=1 keep_checkpoints=100
"""
SHORT = ["dataset.max_rows=16", "batch_size=8", "epochs=1", "evaluation=null", "dataset_val=null"]
TOKENS = torch.randint(0, 20, (2, 12), generator=torch.Generator().manual_seed(0))
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(autouse=True)
def eager():
    """torchao compiles its optimizer step, which takes a minute on a CPU; uncompiled it is the same arithmetic."""
    with torch.compiler.set_stance("force_eager"):
        yield


@torch.no_grad()
def theirs(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


def answered(folder):
    """Whether `transformers` goes on from a question that is written by the folder's chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    asked, how = [{"role": "user", "content": "1 + 1?"}], {"return_tensors": "pt", "return_dict": True}
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **how)
    return model.generate(**prompt, max_new_tokens=2, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


def write_any(folder, family):
    write_case(folder, family, vocab_size=384, max_position_embeddings=512)
    write_byte_tokenizer(folder)


def gone_on_with(words, tmp_path, *, until, config=None):
    """A run that learns, and its end reached once more from the checkpoint at `until`: the folder and its last step."""
    out, again = tmp_path / "out", tmp_path / "again"
    assert run("bt_sft", [*words, f"output_dir={out}"], config=config).code == 0
    losses, last = [record["loss"] for record in records(out) if "loss" in record], max(saved_steps(out))
    assert len(losses) == last and losses[-1] < losses[0] - 0.05, losses
    seen = run("bt_sft", [*words, f"output_dir={copied(out, again, until=until)}"], config=config)
    assert seen.code == 0 and [step for step, _, _ in seen.steps] == list(range(until, last))
    assert differences(out, again, step=last) == []
    return out, last


ANY_FAMILY = ("qwen3", "smollm3", "olmo2", "gemma3", "granite")
FAMILIES = [*(("tiny", kind) for kind in ADAPTERS), *itertools.product(ANY_FAMILY, ("full", "lora"))]


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_it_learns_goes_on_and_is_exported(hub, wide, tmp_path, family, kind):
    """`transformers` and `peft` answer with what is exported as the package does with what it trained."""
    if family == "tiny":
        base = (wide if kind == "qlora" else hub) / "model"
        out, last = gone_on_with(adapter_run(base, kind), tmp_path, until=3)
    else:
        base, lora = tmp_path / "base", "null" if kind == "full" else "{rank: 4, alpha: 16, dropout: 0.1}"
        write_any(base, family)
        words = [f"model.path={base}", f"model.lora={lora}", *ANY.split()]
        out, last = gone_on_with(words, tmp_path, until=2, config="bt_sft/any")
    assert answered(out / "model")
    expected, ours = theirs(out / "model"), adapt(from_folder(path=str(out / "model"), quiet=True)).eval()
    assert distance(logits(ours, TOKENS), expected) < 1e-4 and distance(theirs(base), expected) > 1e-2
    saved = load_file(checkpoint(out, last) / "model.safetensors")
    assert (checkpoint(out, last) / "hf" / "model.safetensors").is_file() == (kind in ("full", "8bit"))
    if kind == "8bit":
        states = load_file(checkpoint(out, last) / "optimizer.safetensors")
        assert any(name.endswith("exp_avg:codes") and value.dtype == torch.uint8 for name, value in states.items())
    elif kind != "full":
        assert saved and all("lora_" in name or "magnitude" in name for name in saved)  # the base is not saved again
        assert any("magnitude" in name for name in saved) == (kind == "dora")
        for folder in (out / "adapter", checkpoint(out, last) / "adapter"):
            assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
            assert distance(adapted_by_peft(base, folder, nf4=kind == "qlora"), expected) < 1e-4


@pytest.mark.parametrize("kind", BF16)
def test_in_bf16_it_goes_on_and_is_exported(hub, wide, tmp_path, monkeypatch, kind):
    """Bit for bit, whatever this CPU has units for; adapters have fp32 weights beside their copies; `transformers`
    reads bf16.
    """
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    out, last = gone_on_with(adapter_run((wide if "qlora" in kind else hub) / "model", kind), tmp_path, until=3)
    weights, states = (load_file(checkpoint(out, last) / f"{name}.safetensors") for name in ("model", "optimizer"))
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    fine = {name for name in states if name.endswith("/fp32")}
    assert fine == ({f"{name}/fp32" for name in weights} if "lora" in kind or kind == "weights" else set())
    rounded = {value.dtype for name, value in states.items() if name.endswith("exp_avg")}
    assert rounded == {torch.bfloat16 if kind in ("bf16", "8bit_bf16", "nearest") else torch.float32}
    assert {value.dtype for value in load_file(out / "model" / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(out / "model").dtype == torch.bfloat16


@torch.no_grad()
def adapted_by_peft(base, folder, *, nf4):
    from peft import PeftModel
    from torchao.dtypes.nf4tensor import to_nf4
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    linear = [module for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    for module in linear if nf4 else ():  # the merged folder holds the base as NF4 rounded it
        module.weight.copy_(to_nf4(module.weight).get_original_weight())
    return PeftModel.from_pretrained(model, folder).eval()(TOKENS).logits


@pytest.mark.parametrize("family", ["tiny", "qwen3"])
def test_another_base_is_refused(hub, tmp_path, refused, family):
    """A checkpoint holds the adapters alone: on other weights they would be another model."""
    out, again, base = tmp_path / "out", tmp_path / "again", tmp_path / "base"
    if family == "tiny":
        shutil.copytree(hub / "model", base)
    else:
        write_any(base, family)
    words, kept = adapter_run(base, "lora"), (base / "model.safetensors").read_bytes()
    assert run("bt_sft", [*words, f"output_dir={out}"]).code == 0
    node = {"_component_": "cot_components.models.from_folder", "path": str(base), "lora": {"rank": 4, "alpha": 8}}
    adapted, merged = load_model(node, **CPU).eval(), theirs(out / "model")
    adapted.load_state_dict(load_file(checkpoint(out, 6) / "model.safetensors"), strict=False)
    assert distance(logits(adapted, TOKENS), merged) < 1e-4, "what adapters said is what the merged weights say"
    copied(out, again, until=3)
    save_file({name: value + 0.01 for name, value in load(kept).items()}, base / "model.safetensors")
    said = refused(run("bt_sft", [*words, f"output_dir={again}"]))
    assert said.startswith("resume: ") and "frozen weights" in said and str(again) in said
    (base / "model.safetensors").write_bytes(kept)
    assert run("bt_sft", [*words, f"output_dir={again}"]).code == 0 and differences(out, again, step=6) == []


def test_a_folder_is_checked_before_data_are_read(tmp_path, refused):
    base = tmp_path / "base"
    write_case(base, "qwen3", vocab_size=384)
    write_byte_tokenizer(base)
    validate = ["validate", "bt_sft/any", f"model.path={base}", "dataset.source=generated"]
    assert main(validate) == 0
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4, "intermediate_size": 49}))
    assert "no tensor 'model.layers.3." in refused(main(validate))
    (base / "config.json").write_text(json.dumps(config))
    assert "'model.lora.rnak'" in refused(main([*validate, "model.lora={rnak: 3}"]))


@pytest.mark.parametrize("name", ["bt_sft", "icot_sft"])  # a Llama with a chat template; a GPT-2
def test_a_checkpoint_of_an_unfinished_run_loads_in_transformers(hub, tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    words = [*overrides_for(name, hub), "epochs=1", "evaluation=null", "dataset_val=null", f"output_dir={out}"]
    assert run(name, [*words, "optimizer.lr=1e-2", "save_every_n_steps=2", "keep_checkpoints=9"]).code == 0
    folder = checkpoint(out, 2)
    ours = load_model(read_state(folder)["config"]["model"], **CPU)
    ours.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    with torch.no_grad():
        expected = logits(ours.eval(), TOKENS)
    assert (theirs(folder / "hf") - expected).abs().max() < 1e-4
    assert (theirs(out / "model") - expected).abs().max() > 1e-2  # trained further since
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    assert tokenizer.decode(tokenizer("12")["input_ids"]).strip() == "12"
    generation = AutoModelForCausalLM.from_pretrained(folder / "hf").generation_config
    assert generation.eos_token_id and generation.do_sample is False


@pytest.mark.parametrize("config", ["bt_sft/llama3_2_1B", CONFIGS / "bt_sft" / "qwen2_5_0_5B.yaml"])
def test_real_configs_run_on_a_random_folder_in_hub_layout(hub, tmp_path, config):
    paths = {"model.path": hub / "model", "dataset.source": hub / "data", "output_dir": tmp_path / "out"}
    paths["dataset.cache_dir"] = tmp_path / "cache"
    words = "device=cpu dtype=fp32 compile=false num_workers=0 batch_size=4 gradient_accumulation_steps=2 "
    words += "tokenizer.max_seq_len=256 dataset_val=0.2 evaluation.max_rows=2 evaluation.max_new_tokens=4"
    seen = run("bt_sft", [*words.split(), *(f"{key}={path}" for key, path in paths.items())], config=config)
    assert seen.code == 0 and any((tmp_path / "cache").iterdir())
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_a_missing_checkpoint_leaves_nothing_behind(hub, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    words = [f"dataset.source={hub / 'data'}", "model.path=/no/such/folder"]
    assert "model.path: no folder /no/such/folder" in refused(run("bt_sft", words, config="bt_sft/llama3_2_1B"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [({"embed_dim": 32}, ["[384, 64]", "[384, 32]"]), ({"rope_base": 10000}, ["rope_theta", "500000", "10000"])],
)
def test_a_builder_of_the_users_own_must_be_that_of_the_weights(hub, tmp_path, refused, change, named):
    """All differences in one message; what the shapes of weights do not show is compared, too."""
    config = OmegaConf.load(CONFIGS / "bt_sft" / "quickstart.yaml")
    shape = {"vocab_size": 384, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64}
    shape |= {"intermediate_dim": 128, "max_seq_len": 512, "rope_base": 500000}
    words = [*SHORT, f"tokenizer.path={hub / 'model'}", f"output_dir={tmp_path / 'out'}"]
    for name, given in (("wrong", shape | change), ("right", shape)):
        builder = {"_component_": "torchtune.models.llama3_2.llama3_2", **given}
        weights = {"_component_": "cot_components.models.with_weights", "weights": str(hub / "model")}
        config.model = {**weights, "model": builder}
        OmegaConf.save(config, tmp_path / f"{name}.yaml")
    said = refused(run("bt_sft", words, config=tmp_path / "wrong.yaml"))
    assert all(part in said for part in named), said
    assert run("bt_sft", words, config=tmp_path / "right.yaml").code == 0


def test_tags_as_tokens_survive_export_and_reload(hub, tmp_path):
    from transformers import AutoTokenizer

    out = tmp_path / "out"
    words = [*SHORT, f"tokenizer.path={hub / 'model'}", "dataset.tags_as=token", f"output_dir={out}"]
    assert run("bt_sft", words).code == 0
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    config = json.loads((out / "model" / "config.json").read_text())
    ids = [tokenizer.encode(tag, add_special_tokens=False) for tag in ("<think>", "</think>")]
    assert [len(i) for i in ids] == [1, 1] and ids[0] != ids[1] and max(ids)[0] < config["vocab_size"]
    few = ["tags_as=token", "evaluation.max_rows=2", "evaluation.max_new_tokens=4"]
    assert run("cot_eval", [f"model.path={out / 'model'}", f"output_dir={tmp_path / 'eval'}", *few]).code == 0
