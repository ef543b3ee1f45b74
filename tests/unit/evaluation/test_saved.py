"""Evaluations on disk: written, read back, and what is said of one that is broken."""

import json
import re

import pytest
from evaluations import TRACES, reply, run

from cot_components.errors import UserError
from cot_components.evaluation.saved import read_evaluation


def test_save_and_read_back(tmp_path):
    result = run(TRACES, [reply("\u516d \x1b", "<&>")] * 12, losses={"val_loss": 0.5})
    path = result.save(tmp_path / "deep" / "step_0.json")
    again = read_evaluation(path)
    assert again == result and again.metrics() == result.metrics()
    assert json.loads(path.read_text())["metrics"]["val_loss"] == 0.5
    (tmp_path / "half.json").write_text(path.read_text()[:50])
    (tmp_path / "other.json").write_text('{"a": 1}')
    for name, message in (
        ("half.json", " is not JSON"),
        ("other.json", ": not a saved evaluation"),
        ("no.json", ": No such file"),
    ):
        with pytest.raises(UserError, match=rf"{name}{message}"):
            read_evaluation(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"examples": 3}, "examples must be"),
        ({"examples": [3]}, "an example is 3"),
        ({"num_samples": "1"}, "num_samples must be int"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"losses": [1]}, "losses must be a mapping"),
        ({"losses": {"val_loss": "low"}}, "losses must be numbers"),
        ({"losses": {"val_loss": True}}, "losses must be numbers"),
    ],
)
def test_wrong_types_in_a_saved_evaluation_are_named(tmp_path, change, said):
    path = run(TRACES, [reply("6", "6")] * 12).save(tmp_path / "step_0.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=rf"step_0\.json: not a saved evaluation \(.*{said}"):
        read_evaluation(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("completion", 3, "examples.completion must be str"),
        ("correct", "yes", "examples.correct must be bool or None"),
        ("thought_tokens", "3", "examples.thought_tokens must be int or None"),
        ("prompt", [{"role": "user"}], "examples.prompt must be turns"),
        ("prompt", ["hello"], "examples.prompt"),
        ("prompt", None, "examples.prompt must be"),
        ("more", 1, "unknown key 'examples.more'"),
    ],
)
def test_wrong_types_in_an_example_are_named(tmp_path, key, value, said):
    path = run(TRACES, [reply("6", "6")] * 12).save(tmp_path / "step_0.json")
    saved = json.loads(path.read_text())
    saved["examples"][1][key] = value
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=re.escape(said)):
        read_evaluation(path)
