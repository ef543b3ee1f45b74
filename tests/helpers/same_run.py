"""Two runs that round sums in another order: the same records and weights but for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file


def compare_records(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Every number of every record but `context_tokens`, which counts padding."""
    assert [sorted(record) for record in one] == [sorted(record) for record in two]
    for ours, theirs in zip(two, one, strict=True):
        for key in theirs.keys() - {"context_tokens"}:
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4, abs=1e-5), (key, ours["step"])
    assert sum(map(len, one)) > 30


def compare_weights(one: Path, two: Path, *, largest: float = 1e-4, mean: float = 1e-6) -> None:
    """By the largest and the mean difference of every weight."""
    ours, theirs = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    assert ours.keys() == theirs.keys() and len(ours) > 10
    gaps = [(ours[name] - theirs[name]).abs() for name in ours]
    assert max(float(gap.max()) for gap in gaps) < largest
    assert max(float(gap.mean()) for gap in gaps) < mean
