"""Two processes are one process: same losses, gradient norms and weights on the same global batch."""

import pytest
from commands import must, tune
from safetensors.torch import load_file

from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.viz.log import read_log

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
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4
