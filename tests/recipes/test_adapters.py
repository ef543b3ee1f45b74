"""LoRA, DoRA, QLoRA and 8-bit optimizer states by config: each learns, goes on bit for bit, and is exported."""

import json

import pytest
import torch
from contract import checkpoint, copied, differences, records, run
from models_for_tests import TINY_OVERRIDES
from safetensors.torch import load_file

from cot_components.models.adapter import logits
from cot_components.models.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft 0.18 asks for an old name

LORA = [
    "model._component_=torchtune.models.llama3_2.lora_llama3_2",
    "model.lora_attn_modules=[q_proj,k_proj,v_proj,output_proj]",
    "model.apply_lora_to_mlp=true",
    "model.lora_rank=4",
    "model.lora_alpha=8",
    "model.lora_dropout=0.1",
]
KINDS = {
    "lora": LORA,
    "dora": [*LORA, "model.use_dora=true"],
    "qlora": [*LORA, "model.quantize_base=true"],
    "8bit": ["optimizer._component_=torchao.optim.AdamW8bit", "~optimizer.fused"],
}
STEPS = 6


@pytest.fixture(autouse=True)
def eager():
    """torchao compiles its optimizer step, which takes a minute on a CPU; uncompiled it is the same arithmetic."""
    with torch.compiler.set_stance("force_eager"):
        yield


def arguments(hub, out, kind):
    return [
        f"tokenizer.path={hub / 'model'}",
        "checkpointer._component_=torchtune.training.FullModelHFCheckpointer",
        f"checkpointer.checkpoint_dir={hub / 'model'}",
        "checkpointer.checkpoint_files=[model.safetensors]",
        "checkpointer.model_type=LLAMA3_2",
        f"checkpointer.output_dir={out}",
        *TINY_OVERRIDES,
        *KINDS[kind],
        f"output_dir={out}",
        "dataset.max_rows=48",
        "dataset_val=null",
        "evaluation=null",
        "epochs=1",
        "batch_size=8",
        "lr_scheduler=null",
        "optimizer.lr=1e-2",
        "log_every_n_steps=1",
        "save_every_n_steps=1",
        "keep_checkpoints=100",
    ]


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_learns_goes_on_and_is_exported(hub, tmp_path, kind):
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


def _compare_with_peft(hub, out, kind):
    """`peft` on the base model, and `transformers` with the merged folder, answer as one another."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    merged = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    base = AutoModelForCausalLM.from_pretrained(hub / "model").eval()
    with torch.no_grad():
        before = base(tokens).logits
        expected = merged(tokens).logits
        for folder in (out / "adapter", checkpoint(out, STEPS) / "adapter"):
            adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(hub / "model"), folder).eval()
            difference = (adapted(tokens).logits - expected).abs().max()
            # peft adds the adapter to the unquantized base, the merged folder holds the quantized one
            assert difference < (0.2 if kind == "qlora" else 1e-4)
    assert (expected - before).abs().max() > 0.05
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_a_merged_folder_is_the_model_that_was_trained(hub, tmp_path):
    """Read back as a plain model: what adapters said during training is what the merged weights say."""
    out = tmp_path / "out"
    run("bt_sft", arguments(hub, out, "lora"))
    node = {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(out / "model"),
        "checkpoint_files": ["model.safetensors"],
        "model_type": "LLAMA3_2",
        "output_dir": str(out),
    }
    shape = dict(pair.removeprefix("model.").split("=") for pair in TINY_OVERRIDES)
    plain = {name: int(value) for name, value in shape.items() if name != "_component_"}
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
    merged = load_model({"_component_": "torchtune.models.llama3_2.llama3_2", **plain}, node, **cpu).eval()
    lora = {"lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"], "apply_lora_to_mlp": True}
    base = {**node, "checkpoint_dir": str(hub / "model")}
    adapted = load_model(
        {"_component_": "torchtune.models.llama3_2.lora_llama3_2", **plain, **lora, "lora_rank": 4, "lora_alpha": 8},
        base,
        **cpu,
    ).eval()
    adapted.load_state_dict(load_file(checkpoint(out, STEPS) / "model.safetensors"), strict=False)
    tokens = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    assert (logits(adapted, tokens) - logits(merged, tokens)).abs().max() < 1e-4
