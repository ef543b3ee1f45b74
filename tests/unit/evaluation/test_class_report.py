"""The report of the discriminator: counted as one would by hand, kept, read back, compared."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rows import random_store

from cot_components.cli.main import main
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.scores import Scores, open_scores, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.evaluation.class_report import read_report, report_classes
from cot_components.runs.layout import CLASSES
from cot_components.viz.class_view import show, show_samples


def decode(ids) -> str:
    return " ".join(map(str, ids)) + " "


@pytest.fixture(name="scored")
def _scored(tmp_path: Path) -> tuple[Rows, Scores]:
    rows = random_store(6)

    def score(flat):
        return {"original": np.ones(len(flat.tokens)), "shuffled": 1 + 0.01 * (flat.tokens % 5 - 2)}

    columns = {"original": Column("a"), "shuffled": Column("b")}
    return rows, score_rows(rows, score, tmp_path / "scores", columns=columns, tokenizer="t")


@pytest.mark.parametrize("threshold", [0.0, 0.015])
def test_counts_by_hand(scored: tuple[Rows, Scores], threshold: float) -> None:
    rows, scores = scored
    truth = (rows.tokens % 2).astype(np.uint8)
    report = report_classes(rows, scores, decode, threshold=threshold, truth=truth)
    counts = [[0, 0], [0, 0]]
    for token, of_truth, where in zip(rows.tokens, truth, scored_tokens(rows), strict=True):
        if where:
            counts[of_truth][int(0.01 * (token % 5 - 2) > threshold)] += 1
    assert report.confusion == counts and report.num_tokens == sum(map(sum, counts))
    assert report.num_reasoning == counts[0][1] + counts[1][1] > 0


def test_kept_read_back_and_compared(scored, tmp_path: Path, capsys) -> None:
    rows, scores = scored
    report = report_classes(rows, scores, decode, truth=np.zeros(len(rows.tokens), dtype=np.uint8))
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert read_report(report.save(tmp_path / "with" / CLASSES)) == report
    report_classes(rows, scores, decode).save(tmp_path / "without" / CLASSES)
    assert main(["compare", str(tmp_path / "with"), str(tmp_path / "without")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{report.against_truth.error_rate:.2%}" in lines[1] and lines[2].split()[0] == "without"
    assert main(["compare", str(tmp_path / "with")]) == 0 and "most reasoning-like" in capsys.readouterr().out
    saved = json.loads((tmp_path / "with" / CLASSES).read_text())
    wrong = {"num_tokens": "many", "confusion": [[1]], "boilerplate": [["a", "b", "c"]], "reasoning": 1}
    for key, value in wrong.items():
        (tmp_path / "with" / CLASSES).write_text(json.dumps({**saved, key: value}))
        with pytest.raises(UserError, match=r"classes\.json: not a report of classes"):
            read_report(tmp_path / "with" / CLASSES)


def test_unfinished_scores_are_refused(scored) -> None:
    rows, scores = scored
    path = scores.folder / "shuffled.npy"
    values = np.load(path)
    values[np.flatnonzero(~np.isnan(values))[3]] = np.nan
    np.save(path, values)
    meta = scores.folder / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text())) + "\n\n")
    with pytest.raises(UserError, match="'shuffled'"):
        report_classes(rows, open_scores(scores.folder), decode)


def test_what_is_shown(scored) -> None:
    rows, scores = scored
    console = Console(width=120, record=True, file=io.StringIO())
    truth = (rows.tokens % 2).astype(np.uint8)
    console.print(*show(report_classes(rows, scores, decode, truth=truth)), sep="\n")
    console.print(*show_samples(rows, truth == 0, decode, indices=[0, 2], truth=truth, coloured=False), sep="\n")
    text = console.export_text()
    for part in ("reasoning found", "most boilerplate-like", "-0.02", "+0.02", f"row {rows.ids[2]}", "{"):
        assert part in text
