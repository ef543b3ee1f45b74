"""LoRA, DoRA, QLoRA and 8-bit optimizer states by config: each learns, goes on bit for bit, and is exported."""

import json
import shutil

import pytest
import torch
from adapters_for_tests import BF16, KINDS, STEPS, arguments
from contract import checkpoint, copied, differences, records, run
from safetensors.torch import load_file

from cot_components.models.adapter import logits
from cot_components.models.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft 0.18 asks for an old name


@pytest.fixture(autouse=True)
def eager():
    """torchao compiles its optimizer step, which takes a minute on a CPU; uncompiled it is the same arithmetic."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_learns_goes_on_and_is_exported(hub, wide, tmp_path, kind):
    hub = wide if kind == "qlora" else hub
    out, again = tmp_path / "out", tmp_path / "again"
    assert run("bt_sft", arguments(hub, out, kind)).code == 0
    losses = [record["loss"] for record in records(out)]
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.05, losses

    copied(out, again, until=3)
    seen = run("bt_sft", arguments(hub, again, kind))
    assert seen.code == 0 and [step for step, _, _ in seen.steps] == [3, 4, 5]
    assert differences(out, again, step=STEPS) == []

    saved = load_file(checkpoint(out, STEPS) / "model.safetensors")
    if kind == "8bit":
        states = load_file(checkpoint(out, STEPS) / "optimizer.safetensors")
        assert any(name.endswith("exp_avg:codes") and value.dtype == torch.uint8 for name, value in states.items())
        assert (checkpoint(out, STEPS) / "hf" / "model.safetensors").is_file()
        return
    assert saved and all("lora_" in name or "magnitude" in name for name in saved)  # the base is not saved again
    assert any("magnitude" in name for name in saved) == (kind == "dora")
    _compare_with_peft(hub, out, kind)


@pytest.mark.parametrize("kind", list(BF16))
def test_in_bf16_it_goes_on_and_is_exported(hub, wide, tmp_path, kind):
    """Bit for bit; adapters have fp32 weights beside their copies; `transformers` reads bf16."""
    from transformers import AutoModelForCausalLM

    hub, out, again = wide if "qlora" in kind else hub, tmp_path / "out", tmp_path / "again"
    assert run("bt_sft", arguments(hub, out, kind)).code == 0
    losses = [record["loss"] for record in records(out)]
    assert losses[-1] < losses[0] - 0.05, losses
    copied(out, again, until=3)
    assert run("bt_sft", arguments(hub, again, kind)).code == 0
    assert differences(out, again, step=STEPS) == []
    weights, states = (load_file(checkpoint(out, STEPS) / f"{name}.safetensors") for name in ("model", "optimizer"))
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    fine = {name for name in states if name.endswith("/fp32")}
    assert fine == ({f"{name}/fp32" for name in weights} if "lora" in kind or kind == "weights" else set())
    rounded = {value.dtype for name, value in states.items() if name.endswith("exp_avg")}
    assert rounded == {torch.bfloat16 if kind in ("bf16", "8bit_bf16", "nearest") else torch.float32}
    assert {value.dtype for value in load_file(out / "model" / "model.safetensors").values()} == {torch.bfloat16}
    exported = AutoModelForCausalLM.from_pretrained(out / "model")
    assert exported.dtype == torch.bfloat16


def test_another_base_is_refused(hub, tmp_path, capsys):
    """A checkpoint holds the adapters alone: on other weights they would be another model."""
    out, again, base = tmp_path / "out", tmp_path / "again", tmp_path / "base"
    shutil.copytree(hub / "model", base)
    words = [*arguments(hub, out, "lora"), f"model.path={base}", "epochs=1"]
    assert run("bt_sft", words).code == 0
    copied(out, again, until=3)
    shutil.copyfile(hub / "teacher" / "model.safetensors", base / "model.safetensors")
    assert run("bt_sft", [*words, f"output_dir={again}"]).code == 2
    said = capsys.readouterr().err
    assert f"resume: the content of the frozen weights (the hash of model.path's files) of {again}" in said
    shutil.copyfile(hub / "model" / "model.safetensors", base / "model.safetensors")
    assert run("bt_sft", [*words, f"output_dir={again}"]).code == 0 and differences(out, again, step=STEPS) == []


def _compare_with_peft(hub, out, kind):
    """`peft` on the base model, and `transformers` with the merged folder, answer as one another."""
    from peft import PeftModel
    from torchao.dtypes.nf4tensor import to_nf4
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    merged = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    base = AutoModelForCausalLM.from_pretrained(hub / "model").eval()
    with torch.no_grad():
        before = base(tokens).logits
        expected = merged(tokens).logits
        for folder in (out / "adapter", checkpoint(out, STEPS) / "adapter"):
            fresh = AutoModelForCausalLM.from_pretrained(hub / "model")
            if kind == "qlora":  # the merged folder holds the base as NF4 rounded it
                for module in fresh.model.layers.modules():
                    if isinstance(module, torch.nn.Linear):
                        module.weight.copy_(to_nf4(module.weight).get_original_weight())
            adapted = PeftModel.from_pretrained(fresh, folder).eval()
            assert (adapted(tokens).logits - expected).abs().max() < 1e-4
    assert (expected - before).abs().max() > 0.05
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_a_merged_folder_is_the_model_that_was_trained(hub, tmp_path):
    """Read back as a plain model: what adapters said during training is what the merged weights say."""
    out = tmp_path / "out"
    run("bt_sft", arguments(hub, out, "lora"))
    node = {"_component_": "cot_components.models.from_folder"}
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
    merged = load_model({**node, "path": str(out / "model")}, **cpu).eval()
    adapted = load_model({**node, "path": str(hub / "model"), "lora": {"rank": 4, "alpha": 8}}, **cpu).eval()
    adapted.load_state_dict(load_file(checkpoint(out, STEPS) / "model.safetensors"), strict=False)
    tokens = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    assert (logits(adapted, tokens) - logits(merged, tokens)).abs().max() < 1e-4
