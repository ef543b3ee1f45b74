"""Processes that were not started alike say so before the first step, and every one says its own error."""

import sys
from pathlib import Path

import pytest
from commands import run

from cot_components.errors import UserError
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.training.distributed import World

RECIPE = """import os, sys
from cot_sft import main
if os.environ["RANK"] == "1":
    {change}
if __name__ == "__main__":
    main()
"""
SHORT = ["dataset.max_rows=16", "dataset_val=null", "evaluation=null", "epochs=1", "batch_size=4", "output_dir=out"]


def together(tmp_path: Path, change: str, *overrides: str):
    """Two processes of `bt_sft/quickstart`, the second of which `change` disturbs before it starts."""
    (tmp_path / "disturbed.py").write_text(RECIPE.format(change=change))
    write_tiny_checkpoint(tmp_path / "tiny")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    words = ["--config", "bt_sft/quickstart", f"tokenizer.path={tmp_path / 'tiny'}", *SHORT, *overrides]
    return run(*torchrun, "disturbed.py", *words, cwd=tmp_path)


DIFFERING = {
    "sys.argv.append('optimizer.lr=1e-4')": "optimizer.lr is 0.0001 on rank 1 and 0.003 on rank 0",
    "import cot_components.data.rows.store as d; d.Rows.training_hash = lambda rows: 'other'": "is 'other' on rank 1",
}


@pytest.mark.parametrize("change", DIFFERING)
def test_what_differs_between_processes_is_named_before_the_first_step(change, tmp_path):
    result = together(tmp_path, change)
    errors = [line for line in result.stderr.splitlines() if "error: " in line and "torch" not in line]
    assert result.returncode == 1 and len(errors) == 1, result.stderr[-3000:]
    assert errors[0].startswith("error: ") and DIFFERING[change] in errors[0]
    assert not (tmp_path / "out" / "model").exists()


def test_a_process_that_fails_alone_says_why(tmp_path):
    """The other one cannot know; torchrun ends it. What both say, one says."""
    fail = (
        "import cot_sft; from cot_components.errors import UserError; "
        "cot_sft.fit_rows = lambda *a, **k: (_ for _ in ()).throw(UserError('this disk is gone'))"
    )
    result = together(tmp_path, fail)
    assert result.returncode == 1 and "rank 1: error: this disk is gone" in result.stderr


def test_processes_that_fail_alike_speak_once(tmp_path):
    result = together(tmp_path, "pass", "model.max_seq_len=8")
    said = [line for line in result.stderr.splitlines() if "the longest, has" in line]
    assert result.returncode == 1 and len(said) == 1 and said[0].startswith("error: ")


def test_agree_names_the_first_rank_and_fact_that_differ(monkeypatch):
    theirs = {"torch": "2.13", "seed": 0}
    for other, named in (
        ({**theirs, "torch": "2.12"}, "torch is '2.12' on rank 2"),
        ({"torch": "2.13"}, "seed is None"),
    ):
        monkeypatch.setattr(World, "gather", lambda world, facts, other=other: [facts, facts, other])
        with pytest.raises(UserError, match=named):
            World(0, 3).agree(theirs)
    monkeypatch.setattr(World, "gather", lambda world, facts: [facts, dict(facts)])
    World(0, 2).agree(theirs)
