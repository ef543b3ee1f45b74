"""Precision, memory and speed of runs, side by side."""

import json

from cot_components.viz.run_facts import fact_rows


def facts(folder, config, *records):
    folder.mkdir()
    if config is not None:
        (folder / "config.yaml").write_text(json.dumps(config))
    return folder, list(records)


def test_what_a_config_chose_and_a_log_measured(tmp_path):
    speed = {"run_peak_memory_gib": 1.5, "run_tokens_per_second": 12345.6, "run_loader_wait_fraction": 0.015}
    steps = [{"step": i, "step_seconds": s} for i, s in enumerate((9.0, 1.0, 2.0, "nan"))]
    full = {"dtype": "fp32", "optimizer_state": "bf16", "export_dtype": None, "float8": False}
    half = {"dtype": "bf16", "optimizer_state": "fp32_moments", "export_dtype": "fp32", "float8": True}
    rows = fact_rows(
        [
            facts(tmp_path / "full", full, *steps, {"step": 4, **speed}),
            facts(tmp_path / "half", half, {"step": 0, "answer_tokens_per_second": 70.0}),
            facts(tmp_path / "bare", None),
        ]
    )
    assert {name: [cell.value for cell in cells] for name, cells in rows} == {
        "precision": ["fp32", "bf16, optimizer state fp32_moments, float8 matmuls", ""],
        "exported as": ["fp32", "fp32", ""],
        "peak memory": ["1.50 GiB", "", ""],
        "trained tokens/s": ["12,346", "", ""],
        "waiting for data": ["1.5 %", "", ""],
        "seconds per step, median": ["2", "", ""],
        "generated tokens/s, median": ["", "70", ""],
    }
    assert fact_rows([facts(tmp_path / "empty", {})]) == []
