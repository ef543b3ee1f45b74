"""Find unexpected encoded rows; every function returns row indices, int64, ascending."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from cot_components.data.rows.scores import row_hashes
from cot_components.data.rows.store import Rows
from cot_components.roles import Role


def count_in_rows(mask: np.ndarray, row_start: np.ndarray) -> np.ndarray:
    """How many tokens of each row are marked, int64 `[B]`; mask bool `[N]`, row_start int64 `[B + 1]`."""
    return np.diff(np.concatenate([[0], np.cumsum(mask)])[row_start])


def without_end(rows: Rows, stop_ids: Sequence[int]) -> np.ndarray:
    """Rows whose last token is not a stop token."""
    last = rows.tokens[np.maximum(rows.row_start[1:] - 1, 0)]
    return np.flatnonzero(~np.isin(last, stop_ids))


def with_gap(rows: Rows) -> np.ndarray:
    """Rows with the middle of their thought cut out (`too_long: cut_thought`)."""
    thought = np.flatnonzero(rows.roles == Role.THOUGHT)
    row = np.searchsorted(rows.row_start, thought, side="right") - 1
    jumps = (np.diff(rows.counters[thought]) != 1) & (np.diff(row) == 0)
    return np.unique(row[1:][jumps])


def without_role(rows: Rows, role: Role) -> np.ndarray:
    """Rows without a token of that role."""
    return np.flatnonzero(count_in_rows(rows.roles == role, rows.row_start) == 0)


def prompt_hashes(rows: Rows) -> np.ndarray:
    """One number per row from its prompt, uint64 `[B]`."""
    mask = rows.roles == Role.PROMPT
    row_start = np.concatenate([[0], np.cumsum(count_in_rows(mask, rows.row_start))])
    return row_hashes(SimpleNamespace(tokens=rows.tokens[mask], row_start=row_start, roles=None, counters=None))


def seen_before(hashes: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Which rows have the hash of an earlier row; with `others`, a hash among these."""
    if others is not None:
        return np.flatnonzero(np.isin(hashes, others))
    return np.setdiff1d(np.arange(len(hashes)), np.unique(hashes, return_index=True)[1])
