"""Encoded rows as flat arrays, in memory or memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cot_components.data.rows.encode import EncodedRow
from cot_components.data.rows.flat import Flat, initial_labels
from cot_components.roles import Role

PER_TOKEN = {"tokens": np.int32, "roles": np.uint8, "counters": np.int32, "weights": np.float32}
COLUMNS = (*PER_TOKEN, "row_start", "ids")
SOURCE_SHIFT = 48
"""Row ids hold the trace's number below bit 40, its turn from bit 40 (`turns: each`), its source from bit 48."""


@dataclass(frozen=True)
class Rows:
    """`B` encoded rows with `N` tokens in all; row `b` is `[row_start[b] : row_start[b + 1]]`. Nothing in it is random.

    tokens int32, roles uint8, counters int32, weights float32, all `[N]`;
    row_start int64 `[B + 1]`; ids int64 `[B]`, all different.
    """

    tokens: np.ndarray
    roles: np.ndarray
    counters: np.ndarray
    weights: np.ndarray
    row_start: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64 `[B]`."""
        return np.diff(self.row_start)

    def flat(self, indices: Sequence[int] | np.ndarray) -> Flat:
        """A batch of the rows at `indices`, in that order, with the labels of plain SFT."""
        rows = self.select(indices)
        tokens = rows.tokens.astype(np.int64)
        return Flat(
            tokens=tokens,
            roles=rows.roles,
            counters=rows.counters,
            labels=initial_labels(tokens, rows.roles),
            weights=rows.weights,
            row_start=rows.row_start,
            ids=rows.ids,
        )

    def select(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """The rows at `indices`, in memory; copied stretch by stretch, several times as fast as token by token."""
        indices = np.asarray(indices, dtype=np.int64)
        starts, ends = self.row_start[indices], self.row_start[indices + 1]
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        columns = {}
        for name, kind in PER_TOKEN.items():
            column = np.asarray(getattr(self, name))
            columns[name] = np.concatenate([column[:0], *(column[a:b] for a, b in spans)], dtype=kind)
        row_start = np.concatenate([[0], np.cumsum(ends - starts)])
        return Rows(**columns, row_start=row_start, ids=np.asarray(self.ids[indices]))

    def content_hash(self) -> str:
        """sha256 over ids and tokens, which ties files of per-token results to these rows."""
        return self._hash("ids", "row_start", "tokens")

    def training_hash(self) -> str:
        """The same over everything a run trains on, including roles and weights."""
        return self._hash("ids", "row_start", "tokens", "roles", "weights")

    def _hash(self, *columns: str) -> str:
        digest = hashlib.sha256()
        for name in columns:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()

    def tokens_by_role(self) -> dict[str, int]:
        """Number of tokens of each role that occurs, by label."""
        counts = np.bincount(self.roles, minlength=len(Role))
        return {role.label: int(counts[role]) for role in Role if counts[role]}

    @staticmethod
    def of(rows: Sequence[EncodedRow], ids: Sequence[int]) -> Rows:
        """Encoded rows and their ids, one each, as rows in memory."""
        columns = {
            name: np.concatenate([np.empty(0, kind), *(getattr(row, name) for row in rows)]).astype(kind, copy=False)
            for name, kind in PER_TOKEN.items()
        }
        row_start = np.cumsum([0, *(len(row.tokens) for row in rows)], dtype=np.int64)
        return Rows(**columns, row_start=row_start, ids=np.asarray(ids, dtype=np.int64))

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows, part after part, ids as they are."""
        columns = {
            name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in PER_TOKEN.items()
        }
        lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)])
        ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)])
        return Rows(**columns, row_start=np.concatenate([[0], np.cumsum(lengths)]), ids=ids)

    @staticmethod
    def join_sources(sources: Sequence[Rows]) -> Rows:
        """Rows of several sources, with the source's number in their ids; ids of the first source are unchanged."""
        return Rows.concatenate(
            [Rows(**{**vars(rows), "ids": rows.ids + (number << SOURCE_SHIFT)}) for number, rows in enumerate(sources)]
        )
