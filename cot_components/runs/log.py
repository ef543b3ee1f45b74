"""Reads a run's log: one flat JSON object per line, possibly cut off where the run died."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cot_components.errors import UserError
from cot_components.runs.layout import LOG

Record = dict[str, Any]


def read_log(path: str | Path) -> list[Record]:
    """Records of a log file, or of a run's folder, in the order they were written; each holds at least `step`.

    A half-written last line is skipped, and so is the half line a killed run leaves before the first record after its
    resume.

    Raises:
        UserError: no such file, or a line in the middle that is not a record; names file and line.
    """
    path = Path(path)
    path = path / LOG if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such log")
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = parse(line)
        if record is not None:
            records.append(record)
        elif line.strip() and number < len(lines):
            shown = line.strip()[:80].decode(errors="replace")
            raise UserError(f"{path}:{number}: not a log record: {shown!r}")
    return records


def parse(line: bytes) -> Record | None:
    """The record in a line of a log; None if there is none."""
    text = line.decode("utf-8", errors="replace")
    # Records are flat, so the last brace opens the last record of the line.
    for start in {0, max(0, text.rfind("{"))}:
        try:
            record = json.loads(text[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and is_count(record.get("step")) and is_count(record.get("epoch", 0)):
            return record
    return None


def is_count(value: Any) -> bool:
    """Whether a value of a record can be a step or an epoch: a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def series(records: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one measured quantity, in the order of the steps.

    If a step was repeated after a resume, its last value counts. Values that are not finite (stored as text) become
    NaN, so that a curve shows a gap.
    """
    by_step = {int(r["step"]): as_number(r[key]) for r in records if r.get(key) is not None}
    steps = sorted(by_step)
    return np.array(steps, dtype=np.int64), np.array([by_step[step] for step in steps], dtype=np.float64)


def as_number(value: Any) -> float:
    """A value of a record; NaN for one that is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def has_any(records: Sequence[Mapping[str, Any]], *keys: str) -> bool:
    """Whether any record measured one of `keys`."""
    return any(record.get(key) is not None for record in records for key in keys)
