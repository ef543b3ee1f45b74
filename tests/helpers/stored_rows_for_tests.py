"""Rows in the store beside the slow reference, and what it means that they are the same."""

from __future__ import annotations

import numpy as np
from rows import ListRows, random_rows

from cot_components.data.rows.encode import EncodedRow
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.store import COLUMNS, Rows


def make(count: int, *, seed: int = 0) -> tuple[Rows, ListRows]:
    """The same rows in the store and in the slow reference."""
    random = np.random.default_rng(seed)
    plain = random_rows(count, seed=seed).rows
    slow = ListRows([row.with_weights(random.random(len(row.tokens), dtype=np.float32)) for row in plain])
    encoded = [EncodedRow(row.tokens, row.roles, row.counters, row.weights) for row in slow.rows]
    return Rows.of(encoded, [int(row.ids[0]) for row in slow.rows]), slow


def assert_same_flat(one: Flat, other: Flat) -> None:
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def assert_same_rows(one: Rows, other: Rows) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype
