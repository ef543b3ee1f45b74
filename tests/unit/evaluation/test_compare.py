"""Runs side by side, and the report of the discriminator: counted as one would by hand, kept, read back, compared."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from rows import random_store

from cot_components.cli.main import main
from cot_components.data.rows.scores import open_scores, score_rows, scored_tokens
from cot_components.errors import UserError
from cot_components.evaluation.classes import FILE, read_report, report_classes, show, show_samples
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


def decode(ids):
    return " ".join(map(str, ids)) + " "


@pytest.fixture(name="scored")
def _scored(tmp_path):
    rows = random_store(6)

    def score(flat):
        return {"original": np.ones(len(flat.tokens)), "shuffled": 1 + 0.01 * (flat.tokens % 5 - 2)}

    return rows, score_rows(rows, score, tmp_path / "scores", columns={"original": "a", "shuffled": "b"}, tokenizer="t")


@pytest.mark.parametrize("threshold", [0.0, 0.015])
def test_counts_by_hand(scored, threshold):
    rows, scores = scored
    truth = (rows.tokens % 2).astype(np.uint8)
    report = report_classes(rows, scores, decode, threshold=threshold, truth=truth)
    counts = [[0, 0], [0, 0]]
    for token, of_truth, where in zip(rows.tokens, truth, scored_tokens(rows), strict=True):
        if where:
            counts[of_truth][int(0.01 * (token % 5 - 2) > threshold)] += 1
    assert report.confusion == counts and report.num_tokens == sum(map(sum, counts))
    assert report.num_reasoning == counts[0][1] + counts[1][1] > 0


def test_kept_read_back_and_compared(scored, tmp_path, capsys):
    rows, scores = scored
    report = report_classes(rows, scores, decode, truth=np.zeros(len(rows.tokens), dtype=np.uint8))
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert read_report(report.save(tmp_path / "with" / FILE)) == report
    report_classes(rows, scores, decode).save(tmp_path / "without" / FILE)
    assert main(["classes", str(tmp_path / "with"), str(tmp_path / "without")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{report.against_truth.error_rate:.2%}" in lines[1] and lines[2].split()[0] == "without"
    saved = json.loads((tmp_path / "with" / FILE).read_text())
    wrong = {"num_tokens": "many", "confusion": [[1]], "boilerplate": [["a", "b", "c"]], "reasoning": 1}
    for key, value in wrong.items():
        (tmp_path / "with" / FILE).write_text(json.dumps({**saved, key: value}))
        with pytest.raises(UserError, match=r"classes\.json: no report of classes"):
            read_report(tmp_path / "with" / FILE)


def test_unfinished_scores_are_refused(scored):
    rows, scores = scored
    path = scores.folder / "shuffled.npy"
    values = np.load(path)
    values[np.flatnonzero(~np.isnan(values))[3]] = np.nan
    np.save(path, values)
    meta = scores.folder / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text())) + "\n\n")
    with pytest.raises(UserError, match="'shuffled'"):
        report_classes(rows, open_scores(scores.folder), decode)


def test_what_is_shown(scored):
    rows, scores = scored
    console = Console(width=120, record=True, file=io.StringIO())
    truth = (rows.tokens % 2).astype(np.uint8)
    console.print(*show(report_classes(rows, scores, decode, truth=truth)), sep="\n")
    console.print(*show_samples(rows, scores, decode, indices=[0, 2], truth=truth, coloured=False), sep="\n")
    text = console.export_text()
    for part in ("reasoning found", "most boilerplate-like", "-0.02", "+0.02", f"row {rows.ids[2]}", "{"):
        assert part in text
