"""`tune run target_sft`, as typed: a teacher, other presets, and what does not fit."""

import pytest
import torch
from commands import CONFIGS, must, tune, user_error
from safetensors.torch import load_file

from cot_components.models.export import save_pretrained
from cot_components.models.tiny import tiny_llama, write_tiny_checkpoint
from cot_components.runs.log import read_log

SHORT = [
    "dataset.max_rows=32",
    "dataset_val.max_rows=8",
    "evaluation=null",
    "epochs=1",
    "batch_size=8",
    "log_every_n_steps=1",
]
NO_TEACHER = ["~loss.eta", "reference=null"]


def run(hub, cwd, *overrides):
    paths = [f"tokenizer.path={hub / 'model'}", f"model.path={hub / 'model'}"]
    teacher = f"reference.model.path={hub / 'teacher'}"
    paths += [] if "reference=null" in overrides else [teacher]
    return tune("target_sft", "--config", "target_sft/quickstart", *paths, *SHORT, *overrides, cwd=cwd)


@pytest.fixture(scope="module", autouse=True)
def teacher(hub):
    write_tiny_checkpoint(hub / "teacher", seed=1)


def test_it_learns_from_data_and_teacher(hub, tmp_path):
    must(run(hub, tmp_path, "output_dir=out", "optimizer.lr=1e-2"))
    records = [record for record in read_log(tmp_path / "out") if "objective" in record]
    assert len(records) == 4 and records[-1]["objective"] < records[0]["objective"]
    assert records[0]["objective"] != pytest.approx(records[0]["loss"], rel=1e-3)


def test_eta_0_is_dft_and_weights_of_1_are_sft(hub, tmp_path):
    must(run(hub, tmp_path, "output_dir=eta0", "loss.eta=0.0"))
    must(run(hub, tmp_path, "output_dir=dft", "loss=cot_components.losses.dft", *NO_TEACHER))
    eta0, dft = (
        [record["val_loss"] for record in read_log(tmp_path / name) if "val_loss" in record] for name in ("eta0", "dft")
    )
    assert len(dft) == 2 and eta0 == pytest.approx(dft, rel=1e-4) and dft[0] != dft[1]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["reference=null"], "the loss target_sft needs a reference; name one in the key 'reference'"),
        (["loss=cot_components.losses.sft", "~loss.eta"], "the loss sft takes no reference; remove it in the key"),
        (["loss.eta=1.5"], "eta"),
    ],
)
def test_what_does_not_fit_is_one_sentence(hub, tmp_path, overrides, sentence):
    assert sentence in user_error(run(hub, tmp_path, "output_dir=out", *overrides))


def test_a_teacher_with_another_vocabulary_names_both_sizes(hub, tmp_path):
    save_pretrained(tiny_llama(400), tmp_path / "other")
    result = run(hub, tmp_path, "output_dir=out", f"reference.model.path={tmp_path / 'other'}")
    assert "its vocabulary has 400 tokens, the model's has 384" in user_error(result)


def test_the_model_itself_with_its_adapters_off_is_a_reference(hub, tmp_path):
    """ASFT of a LoRA model: only adapters train, and the exported folder holds them merged."""
    config = (CONFIGS / "target_sft" / "quickstart.yaml").read_text()
    begin, end = config.index("reference:"), config.index("optimizer:")
    off = "reference:\n  _component_: cot_components.models.AdaptersOff\n\n"
    (tmp_path / "lora.yaml").write_text(config[:begin] + off + config[end:])
    must(
        tune(
            "target_sft",
            "--config",
            "lora.yaml",
            f"tokenizer.path={hub / 'model'}",
            f"model.path={hub / 'model'}",
            "model.lora.rank=4",
            "model.lora.alpha=8",
            "model.lora.targets=[q_proj,v_proj]",
            "loss=cot_components.losses.asft",
            "~loss.eta",
            *SHORT,
            "optimizer.lr=1e-2",
            "output_dir=out",
            cwd=tmp_path,
        )
    )
    before = load_file(hub / "model" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)
