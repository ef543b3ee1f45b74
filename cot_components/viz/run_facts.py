"""Precision, memory and speed of runs: what a config chose, and what the log measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cot_components.errors import UserError
from cot_components.evaluation.table import Cell
from cot_components.runs.log import Record, series
from cot_components.runs.same_config import read_config

MEASURED = (
    ("run_peak_memory_gib", "peak memory", "{:,.2f} GiB", 1.0),
    ("run_tokens_per_second", "trained tokens/s", "{:,.0f}", 1.0),
    ("run_supervised_tokens_per_second", "supervised tokens/s", "{:,.0f}", 1.0),
    ("run_tflops", "TFLOP/s per device", "{:,.3g}", 1.0),
    ("run_mfu", "of the device's peak", "{:.1f} %", 100.0),
    ("run_loader_wait_fraction", "waiting for data", "{:.1f} %", 100.0),
    ("step_seconds", "seconds per step, median", "{:,.3g}", 1.0),
    ("answer_tokens_per_second", "generated tokens/s, median", "{:,.0f}", 1.0),
)
"""Key of the log, label, format and factor."""


def fact_rows(runs: Sequence[tuple[Path, Sequence[Record]]]) -> list[tuple[str, list[Cell]]]:
    """Facts by name, one cell per run. `runs`: folder and log of each."""
    facts = [_facts(folder, records) for folder, records in runs]
    names = ("precision", "exported as", *(name for _, name, *_ in MEASURED))
    return [(name, [Cell(of_run.get(name, "")) for of_run in facts]) for name in names if any(name in f for f in facts)]


def _facts(folder: Path, records: Sequence[Record]) -> dict[str, str]:
    try:
        config = read_config(folder)
    except UserError:  # a folder may contain nothing but a log
        config = {}
    facts = _precision(config)
    for key, name, form, factor in MEASURED:
        values = series(records, key)[1]
        values = values[np.isfinite(values)]
        if len(values):
            facts[name] = form.format(factor * statistics.median(values.tolist()))
    return facts


def _precision(config: Mapping[str, Any]) -> dict[str, str]:
    dtype = config.get("dtype")
    if not isinstance(dtype, str):
        return {}
    said = [dtype]
    if dtype == "bf16" and "optimizer_state" in config:
        said.append(f"optimizer state {config['optimizer_state']}")
    if config.get("float8"):
        said.append("float8 matmuls")
    exported = {"exported as": str(config["export_dtype"] or dtype)} if "export_dtype" in config else {}
    return {"precision": ", ".join(said), **exported}
