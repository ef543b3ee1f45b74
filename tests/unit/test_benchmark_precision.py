"""Cells of `python -m benchmarks.precision`, on a tiny model: every arm trains and is exported, none is run twice."""

import json
import sys

import pytest

from benchmarks import precision


def test_cells_are_lines_and_go_on(hub, tmp_path, monkeypatch, capsys):
    path = tmp_path / "cells.jsonl"
    words = ["precision", "--rates", "1e-3", "--seeds", "0", "--steps", "2", "--model", str(hub / "model")]
    monkeypatch.setattr(sys, "argv", [*words, "--results", str(path), "--arms", "fp32", "autocast", "fp32_weights"])
    precision.main()
    monkeypatch.setattr(sys, "argv", [*words, "--results", str(path)])
    precision.main()
    cells = {line["arm"]: line for line in map(json.loads, path.read_text().splitlines())}
    assert list(cells) == ["fp32", "autocast", "fp32_weights", "nearest", "bf16", "fp32_moments"]
    kept = {"fp32": 16, "autocast": 16, "nearest": 8, "bf16": 8, "fp32_moments": 12, "fp32_weights": 16}
    for arm, cell in cells.items():
        assert cell["bytes_a_weight"] == pytest.approx(kept[arm], abs=0.01)
        assert cell["end"] < cell["before"] - 0.01 and cell["export"] == pytest.approx(cell["end_weights"], abs=2e-3)
        assert cell["threads"] == 1 and cell["chip"] and cell["versions"]["torch"]
    assert cells["fp32"]["export"] != cells["fp32"]["export_nearest"]
    assert "| 0.001 | bf16 | 1 |" in capsys.readouterr().out
