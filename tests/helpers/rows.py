"""Small encoded rows that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cot_components.data.rows.flat import Flat, initial_labels
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.roles import Role


def make_flat(rows: Sequence[Sequence[Role]], *, ids: Sequence[int] | None = None, first_token: int = 10) -> Flat:
    """A `Flat` from the roles of each row; tokens count upwards so that every token is different."""
    roles = np.array([role for row in rows for role in row], dtype=np.uint8)
    tokens = np.arange(first_token, first_token + len(roles), dtype=np.int64)
    counters = np.concatenate([_counters(row) for row in rows] or [np.empty(0)]).astype(np.int32)
    return Flat(
        tokens=tokens,
        roles=roles,
        counters=counters,
        labels=initial_labels(tokens, roles),
        weights=np.ones(len(tokens), dtype=np.float32),
        row_start=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        ids=np.arange(len(rows), dtype=np.int64) if ids is None else np.array(ids, dtype=np.int64),
    )


def _counters(row: Sequence[Role]) -> np.ndarray:
    thought = np.array([role is Role.THOUGHT for role in row], dtype=bool)
    return np.where(thought, np.cumsum(thought) - 1, -1)


def trace_roles(prompt: int, thought: int, answer: int) -> list[Role]:
    """Roles of one row: prompt, tag, thought, tag, answer."""
    return (
        [Role.PROMPT] * prompt
        + [Role.THINK_OPEN]
        + [Role.THOUGHT] * thought
        + [Role.THINK_CLOSE]
        + [Role.ANSWER] * answer
    )


@dataclass(frozen=True)
class ListRows:
    """Rows kept as single-row `Flat`s; the slow reference of a row store."""

    rows: list[Flat]

    def flat(self, indices: Sequence[int]) -> Flat:
        chosen = [self.rows[i] for i in indices]
        names = ("tokens", "roles", "counters", "labels", "weights", "ids")
        empty = make_flat([])
        columns = {
            name: np.concatenate([getattr(empty, name), *[getattr(row, name) for row in chosen]]) for name in names
        }
        columns = {name: values.astype(getattr(empty, name).dtype) for name, values in columns.items()}
        return Flat(**columns, row_start=np.cumsum([0, *[len(row.tokens) for row in chosen]]).astype(np.int64))


def random_rows(count: int, *, seed: int = 0, vocabulary: int = 50) -> ListRows:
    """Rows of random tokens and lengths, ids spread out."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        prompt, thought, answer = random.integers(1, 6), random.integers(0, 30), random.integers(1, 5)
        flat = make_flat([trace_roles(int(prompt), int(thought), int(answer))], ids=[index * 7 + 3])
        tokens = random.integers(0, vocabulary, len(flat.tokens))
        rows.append(
            Flat(
                tokens,
                flat.roles,
                flat.counters,
                initial_labels(tokens, flat.roles),
                flat.weights,
                flat.row_start,
                flat.ids,
            )
        )
    return ListRows(rows)


def random_store(count: int, **settings: int) -> Rows:
    """`random_rows` as they are kept on disk."""
    flat = random_rows(count, **settings).flat(range(count))
    columns = {name: getattr(flat, name).astype(kind) for name, kind in PER_TOKEN.items()}
    return Rows(**columns, row_start=flat.row_start, ids=flat.ids)
