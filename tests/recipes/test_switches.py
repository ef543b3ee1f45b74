"""Switches of the loop: what must change nothing changes nothing, the rest trains."""

import pytest
from commands import must, tune

from cot_components.runs.log import read_log


def losses(hub, cwd, name, *overrides):
    must(
        tune(
            "bt_sft",
            "--config",
            "bt_sft/quickstart",
            f"tokenizer.path={hub / 'model'}",
            "dataset.max_rows=48",
            "dataset_val=null",
            "evaluation=null",
            "epochs=1",
            "batch_size=8",
            "log_every_n_steps=1",
            f"output_dir={name}",
            *overrides,
            cwd=cwd,
        )
    )
    return [record["loss"] for record in read_log(cwd / name) if "loss" in record]


def test_switches(hub, tmp_path):
    plain = losses(hub, tmp_path, "plain")
    assert len(plain) == 6
    checkpointed = losses(hub, tmp_path, "checkpointed", "enable_activation_checkpointing=true")
    assert checkpointed == pytest.approx(plain, rel=1e-5)
    half = losses(hub, tmp_path, "half", "dtype=bf16")
    assert half == pytest.approx(plain, rel=2e-2) and half != plain
    logger = "metric_logger={_component_: torchtune.training.metric_logging.DiskLogger, log_dir: logs}"
    packed = losses(hub, tmp_path, "packed", "packed_tokens=600")  # longer than the model's context
    assert len(packed) > 4 and packed[-1] < packed[0]
    constant = losses(hub, tmp_path, "constant", "lr_scheduler=null", logger)
    assert constant[-1] < plain[-1]  # no warm-up: it has learned more after six steps
    assert "loss_thought" in next((tmp_path / "logs").glob("*.txt")).read_text()


@pytest.mark.parametrize(("every", "logged"), [(0, 0), (100, 1)])
def test_a_run_shorter_than_its_log_is_finished(hub, tmp_path, every, logged):
    """Nothing evaluated, and no step but the last is due: the run ends well, with all that it leaves."""
    found = losses(hub, tmp_path, "short", f"log_every_n_steps={every}", "log_blurred_every=0")
    assert len(found) == logged
    assert (tmp_path / "short" / "report.html").exists()
    assert (tmp_path / "short" / "curves.png").exists() == (logged > 0)
