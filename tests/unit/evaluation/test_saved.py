"""Evaluations on disk: written, read back, and what is said of one that is broken."""

import json

import pytest
from evaluations_for_tests import TRACES, reply, run

from cot_components.errors import UserError
from cot_components.evaluation.saved import read_evaluation


def test_save_and_read_back(tmp_path):
    result = run(TRACES, [reply("\u516d \x1b", "<&>")] * 12, losses={"val_loss": 0.5})
    path = result.save(tmp_path / "deep" / "step_0.json")
    again = read_evaluation(path)
    assert again == result and again.metrics() == result.metrics()
    assert json.loads(path.read_text())["metrics"]["val_loss"] == 0.5


OF_ALL = [{"examples": 3}, {"examples": [3]}, {"num_samples": "1"}, {"num_samples": 0}]
OF_ALL += [{"losses": [1]}, {"losses": {"val_loss": "low"}}, {"losses": {"val_loss": True}}]
OF_ONE = [{"completion": 3}, {"correct": "yes"}, {"thought_tokens": "3"}, {"more": 1}]
OF_ONE += [{"prompt": [{"role": "user"}]}, {"prompt": ["hello"]}, {"prompt": None}]


@pytest.mark.parametrize("change", [*OF_ALL, *[{"examples": change} for change in OF_ONE]])
def test_wrong_types_are_named_with_their_key(tmp_path, change):
    path = run(TRACES, [reply("6", "6")] * 12).save(tmp_path / "step_0.json")
    saved = json.loads(path.read_text())
    ((key, value),) = change.items()
    if isinstance(value, dict) and key == "examples":
        saved["examples"][1] |= value
        key = f"examples.{next(iter(value))}"
    else:
        saved[key] = value
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=rf"step_0\.json: not a saved evaluation.*({key}|an example)"):
        read_evaluation(path)
