"""Runs side by side: the last evaluation of each, and one sentence where there is none."""

import dataclasses
import json

import pytest

from cot_components.cli.main import main
from cot_components.errors import UserError
from cot_components.evaluation.compare import last_evaluation
from cot_components.evaluation.evaluate import Evaluation, Example
from cot_components.evaluation.saved import read_evaluation


def write_run(folder, *steps):
    folder.mkdir()
    lines = [json.dumps({"step": step, "loss_answer": 1.0 / (step + 1)}) for step in range(12)]
    (folder / "log.jsonl").write_text("\n".join(lines))
    for step in steps:
        example = Example("x:1", 0, ({"role": "user", "content": "q"},), "a", "a", "a", True, True, step)
        Evaluation((example,), losses={"val_loss": 0.5}).save(folder / "evaluations" / f"step_{step}.json")
    return folder


def test_the_last_evaluation_is_the_one_of_the_highest_step(tmp_path):
    assert last_evaluation(write_run(tmp_path / "a", 0, 10, 9)).thought_tokens == 10
    with pytest.raises(UserError, match="holds no evaluation"):
        last_evaluation(write_run(tmp_path / "b"))


def test_runs_side_by_side_with_the_answers_that_were_cut(tmp_path, capsys):
    runs = [write_run(tmp_path / name, 5) for name in ("old", "new")]
    saved = read_evaluation(runs[1] / "evaluations" / "step_5.json")
    cut = dataclasses.replace(saved, examples=tuple(dataclasses.replace(e, cut=True) for e in saved.examples))
    cut.save(runs[1] / "evaluations" / "step_5.json")
    assert main(["compare", *map(str, runs)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["old", "new"] in printed and (tmp_path / "new" / "comparison.png").is_file()
    accuracy = next(i for i, words in enumerate(printed) if words[:2] == ["answers", "correct"])
    assert printed[accuracy + 1] == ["cut", "by", "max_new_tokens", "-", "100.0", "%"]
    assert not any("held-out" in words for words in printed)
