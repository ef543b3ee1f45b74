"""Two processes are one process: same losses, gradient norms and weights on the same global batch."""

import pytest
from commands import must, tune
from contract import overrides_for, records, run, score, training_recipes
from safetensors.torch import load_file

from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.log import read_log

SAME = (
    "loss",
    "objective",
    "loss_thought",
    "loss_answer",
    "loss_blurred",
    "grad_norm",
    "supervised_tokens",
    "val_loss",
    "val_loss_blurred",
)


def same_weights(one, two):
    """By the largest and the mean difference."""
    ours, theirs = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    assert ours.keys() == theirs.keys() and len(ours) > 10
    differences = [(ours[name] - theirs[name]).abs() for name in ours]
    assert max(float(d.max()) for d in differences) < 1e-4 and max(float(d.mean()) for d in differences) < 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_bt_sft(packed, tmp_path):
    """Packed, the last step of the epoch has fewer packs than processes can share, so one process runs padding."""
    write_tiny_checkpoint(tmp_path / "tiny")
    common = [
        "bt_sft",
        "--config",
        "bt_sft/quickstart",
        f"tokenizer.path={tmp_path / 'tiny'}",
        "dataset.max_rows=70",
        "dataset_val.max_rows=15",
        "evaluation.max_rows=3",
        "evaluation.max_new_tokens=4",
        "epochs=1",
        "log_every_n_steps=1",
        "log_blurred_every=2",
        "optimizer.lr=1e-3",
    ]
    alone = ["packed_tokens=1024", "gradient_accumulation_steps=2"] if packed else ["batch_size=8"]
    together = ["packed_tokens=1024", "gradient_accumulation_steps=1"] if packed else ["batch_size=4"]
    if not packed:
        common.append("gradient_accumulation_steps=2")
    must(tune(*common, "output_dir=one", *alone, cwd=tmp_path))
    must(tune("--nproc_per_node", "2", *common, "output_dir=two", *together, cwd=tmp_path))
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [sorted(record) for record in one] == [sorted(record) for record in two]
    compared = 0
    for ours, theirs in zip(two, one, strict=True):
        for name in SAME:
            if name in ours:
                assert ours[name] == pytest.approx(theirs[name], rel=2e-4), (name, ours["step"])
                compared += 1
    assert compared > 20 and any("loss_blurred" in record for record in one)
    same_weights(tmp_path / "one", tmp_path / "two")


OTHERS = [name for name in training_recipes() if name != "bt_sft"]
assert len(OTHERS) >= 3


PACED = [
    *("curriculum.pace=accuracy", "curriculum.measure_every=1", "curriculum.cap=1"),
    *("dataset.exclude=[validation]", "dataset_val={split: validation, num_rows: 7}"),
]


@pytest.mark.parametrize(("name", "more"), [*((name, []) for name in OTHERS), ("icot_sft", PACED)])
def test_every_other_recipe(name, more, hub, tmp_path):
    """Four steps with evaluations; the last one has two rows, so that one of the four micro-batches is empty."""
    if name == "rft":
        score(hub)
    words = [word for word in overrides_for(name, hub) if "dropout" not in word and "batch_size=4" not in word]
    rows = {"dataset.max_rows=44": "dataset.max_rows=26", "dataset.num_rows=44": "dataset.num_rows=26"}
    words = [rows.get(word, word) for word in words] + ["epochs=1", "optimizer.lr=1e-3", *more]
    if name == "icot_sft":
        words.append("model.dropout=0.0")
    assert run(name, [*words, "batch_size=4", f"output_dir={tmp_path / 'one'}"]).code == 0
    together = [name, "--config", f"{name}/quickstart", *words, "batch_size=2", f"output_dir={tmp_path / 'two'}"]
    must(tune("--nproc_per_node", "2", *together, cwd=tmp_path))
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert [sorted(record) for record in one] == [sorted(record) for record in two]
    compared = 0
    for ours, theirs in zip(two, one, strict=True):
        for key, value in theirs.items():
            if key != "context_tokens":  # counts padding, which other micro-batches have otherwise
                assert ours[key] == pytest.approx(value, rel=2e-4, abs=1e-5), (key, ours["step"])
                compared += 1
    assert compared > 30 and sum("objective" in record for record in one) == 4
    same_weights(tmp_path / "one", tmp_path / "two")
