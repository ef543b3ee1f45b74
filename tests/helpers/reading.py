"""Rows and traces in short: what a row means, why it is refused, and traces as `prepare_rows` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from cot_components.data.bad_rows import DropReport, RowError
from cot_components.data.read.formats import FORMATS, Content, detect, read_row
from cot_components.data.read.traces import Trace, read_traces


def read(row: dict[str, Any], columns: dict[str, str] | None = None) -> Content:
    """The row in the format that its columns fit."""
    return read_row(row, FORMATS[detect(row, columns or {})], columns or {})


def refusal(row: dict[str, Any], columns: dict[str, str] | None = None) -> str:
    """Why the row is refused."""
    with pytest.raises(RowError) as caught:
        read(row, columns)
    return str(caught.value)


def prompts(*args: Any, **settings: Any) -> list[tuple[str, str]]:
    """Place, without folders, and prompt of each row that `read_traces` gives."""
    return [(t.where.rpartition("/")[2], t.messages[0].content) for t in read_traces(*args, **settings)]


def reader(traces: Iterable[Trace]) -> Callable[[DropReport], list[Trace]]:
    """What `prepare_rows` reads these traces with."""
    kept = list(traces)

    def read_kept(report: DropReport) -> list[Trace]:
        report.read += len(kept)
        return kept

    return read_kept
