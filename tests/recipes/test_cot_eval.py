"""`tune run cot_eval`, as typed."""

import json

from commands import must, tune, user_error
from models_for_tests import TINY_OVERRIDES


def test_it_scores_a_checkpoint(hub, tmp_path):
    printed = must(
        tune(
            "cot_eval",
            "--config",
            "cot_eval/quickstart",
            f"checkpointer.checkpoint_dir={hub / 'model'}",
            *TINY_OVERRIDES,
            "evaluation.max_rows=3",
            "evaluation.max_new_tokens=6",
            "evaluation.temperature=1.0",
            "evaluation.num_samples=2",
            cwd=tmp_path,
        )
    )
    assert "answers correct" in printed
    saved = json.loads((tmp_path / "runs" / "cot_eval_quickstart" / "evaluation.json").read_text())
    assert len(saved["examples"]) == 6 and "answer_accuracy" in saved["metrics"]


def test_greedy_samples_are_refused(hub, tmp_path):
    result = tune(
        "cot_eval",
        "--config",
        "cot_eval/quickstart",
        f"checkpointer.checkpoint_dir={hub / 'model'}",
        "evaluation.num_samples=2",
        cwd=tmp_path,
    )
    assert "num_samples above 1 needs a temperature" in user_error(result)


def test_two_processes_would_write_one_file(hub, tmp_path):
    start = f"checkpointer.checkpoint_dir={hub / 'model'}"
    result = tune("--nproc_per_node", "2", "cot_eval", "--config", "cot_eval/quickstart", start, cwd=tmp_path)
    assert result.returncode and "cot_eval runs as one process, this is 2" in result.stderr
