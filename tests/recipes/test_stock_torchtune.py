"""A stock torchtune recipe trains BT-SFT from YAML alone."""

import re

from commands import CONFIGS, must, tune

CONFIG = CONFIGS / "stock_torchtune" / "bt_sft_tiny.yaml"


def paths(hub, out):
    return [
        f"tokenizer.path={hub / 'model'}",
        f"checkpointer.checkpoint_dir={hub / 'model'}",
        f"output_dir={out}",
        "dataset.max_rows=256",
    ]


def test_it_trains(hub, tmp_path):
    must(tune("full_finetune_single_device", "--config", CONFIG, *paths(hub, tmp_path / "out"), cwd=tmp_path))
    (log,) = (tmp_path / "out" / "logs").glob("*.txt")
    losses = [float(value) for value in re.findall(r"loss:([\d.]+)", log.read_text())]
    assert len(losses) == 16 and losses[-1] < losses[0]


def test_a_mask_for_every_epoch_is_refused(hub, tmp_path):
    result = tune(
        "full_finetune_single_device",
        "--config",
        CONFIG,
        *paths(hub, tmp_path / "out"),
        "dataset.transforms.blur.redraw=epoch",
        cwd=tmp_path,
    )
    assert result.returncode != 0
    assert (
        "dataset.transforms.blur changes from epoch to epoch" in result.stderr and "set redraw: once" in result.stderr
    )
