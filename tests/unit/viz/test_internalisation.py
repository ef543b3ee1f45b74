"""The picture of internalisation comes from the run's own log."""

import json

import numpy as np
import pytest

from cot_components.cli.main import main
from cot_components.errors import UserError
from cot_components.runs.log import read_log
from cot_components.viz.internalisation import accuracy_by_removal, plot_internalisation


def write_log(folder, removed) -> None:
    folder.mkdir()
    records = []
    for index, amount in enumerate(removed):
        records.append({"step": 10 * index, "loss_answer": 1.0 / (index + 1), "removed": amount})
        records.append({"step": 10 * index + 9, "removed": amount, "answer_accuracy": 0.1 * index})
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_evaluations_alone_count(tmp_path) -> None:
    write_log(tmp_path / "run", [0.0, 0.0, 1.02, 2.0])
    removed, accuracy, steps = accuracy_by_removal(read_log(tmp_path / "run"))
    assert removed.tolist() == [0.0, 0.0, 1.02, 2.0] and steps.tolist() == [9, 19, 29, 39]
    assert accuracy == pytest.approx(np.array([0.0, 0.1, 0.2, 0.3]))


def test_runs_with_and_without_removal_share_a_picture(tmp_path) -> None:
    write_log(tmp_path / "icot", [0.0, 1.0, 2.0])
    write_log(tmp_path / "none", [2.0, 2.0])
    picture = plot_internalisation([tmp_path / "icot", tmp_path / "none"], tmp_path / "out" / "picture.png")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


def test_runs_of_one_name_are_told_apart(tmp_path) -> None:
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        write_log(tmp_path / place / "run", [0.0, 1.0])
    runs = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    text = plot_internalisation(runs, tmp_path / "picture.svg").read_text()
    assert "x/run (rings" in text and "y/run (rings" in text
    with pytest.raises(UserError, match=r"picture\.foo: a picture's name must end in its type: "):
        plot_internalisation(runs, tmp_path / "picture.foo")


def test_a_run_without_removal_is_named(tmp_path, capsys) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert main(["internalisation", str(tmp_path / "sft"), "--out", str(tmp_path / "x.png")]) == 2
    assert "sft: the log holds no evaluation that says how much was removed" in capsys.readouterr().err
