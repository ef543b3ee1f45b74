"""Scores as one Parquet file, one line per row, for other tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cot_components.data.rows.scores import Scores, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError

FILE = "scores.parquet"
ROWS_AT_ONCE = 4096


def write_table(scores: Scores, rows: Rows, *, again: bool = True) -> Path:
    """Write `scores.parquet` into the scores folder, atomically.

    A line has `id`, `length` and `scored` (numbers of tokens), `tokens`, each finished column as a list aligned with
    them (null at tokens without a score), and its means over the scored tokens: `sum_logprob` and `mean_logprob` of
    `nll`, `mean_entropy`, ...; a column `x_nll` makes `x_sum_logprob`, and one `x` that holds nll does too.

    Args:
        scores: of all `rows`, in their order.
        rows: what was scored.
        again: write even if the file already has these columns.

    Raises:
        UserError: it cannot be written.
    """
    path, unfinished = scores.folder / FILE, scores.folder / f"{FILE}.new"
    names = [name for name in scores.columns if scores.is_finished(name)]
    if not again and path.exists() and set(names) <= set(pq.read_schema(path).names):
        return path
    measures = {name: scores.meta["columns"][name]["measure"] for name in names}
    try:
        writer = None
        for begin in range(0, max(len(rows), 1), ROWS_AT_ONCE):
            table = _table(scores, rows, slice(begin, min(begin + ROWS_AT_ONCE, len(rows))), measures)
            writer = writer or pq.ParquetWriter(unfinished, table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None
        writer.close()
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}") from error
    return path


def _table(scores: Scores, rows: Rows, part: slice, measures: Mapping[str, str]) -> pa.Table:
    some = rows.select(range(part.start, part.stop))
    scored = scored_tokens(some)
    number = _sums(scored, some.row_start)
    columns: dict[str, Any] = {
        "id": pa.array(some.ids),
        "length": pa.array(some.lengths.astype(np.int32)),
        "scored": pa.array(number.astype(np.int32)),
    }
    lists: dict[str, Any] = {"tokens": _lists(pa.array(some.tokens), some.row_start)}
    begin, end = scores.row_start[part.start], scores.row_start[part.stop]
    for name, what in measures.items():
        values = np.where(scored, scores.column(name)[begin:end], np.nan)
        kind = pa.int32() if what == "rank" else pa.float32()
        lists[name] = _lists(pa.array(values, from_pandas=True).cast(kind), some.row_start)
        columns |= _per_row(name, what, _sums(np.where(scored, values, 0.0), some.row_start), number)
    return pa.table(columns | lists)


def _per_row(name: str, what: str, total: np.ndarray, number: np.ndarray) -> dict[str, Any]:
    stem = name.removesuffix(what).removesuffix("_")
    before = f"{stem}_" if stem else ""
    mean = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    if what == "nll":
        columns = {f"{before}sum_logprob": -total, f"{before}mean_logprob": -mean}
    else:
        columns = {f"{before}mean_{what}": mean}
    return {name: pa.array(values, from_pandas=True) for name, values in columns.items()}


def _sums(values: np.ndarray, row_start: np.ndarray) -> np.ndarray:
    """Sum over each row, float64 `[B]`."""
    return np.diff(np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[row_start])


def _lists(values: pa.Array, row_start: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(row_start.astype(np.int32)), values)
