"""Rows of different lengths as flat arrays: the one layout every transform works on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from cot_components.roles import IGNORE, SUPERVISED_ROLES


class Ragged(Protocol):
    """`N` tokens of `B` rows end to end: a `Flat`, or all `store.Rows` of a data set.

    tokens:    `[N]`, int64 in a `Flat`, int32 in `Rows`
    roles:     uint8 `[N]`, values of `Role`
    counters:  int32 `[N]`, index of a thought token inside the row's thoughts, -1 elsewhere
    row_start: int64 `[B + 1]`; row `b` is `[row_start[b] : row_start[b + 1]]`
    """

    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def roles(self) -> np.ndarray: ...
    @property
    def counters(self) -> np.ndarray: ...
    @property
    def row_start(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Flat:
    """A ragged batch of `B` rows with `N` tokens in all; row `b` is `[row_start[b] : row_start[b + 1]]`. A single
    sample is `B = 1`.

    tokens:    int64 `[N]`
    roles:     uint8 `[N]`, values of `Role`
    counters:  int32 `[N]`, index of a thought token inside the row's thoughts as encoded, -1 elsewhere
    labels:    int64 `[N]`, aligned with `tokens` (not shifted): the token itself, or `IGNORE`
    weights:   float32 `[N]`, what the token's loss is multiplied by
    row_start: int64 `[B + 1]`
    ids:       int64 `[B]`, the row's number in its source before any filtering
    positions: int64 `[N]`, position ids inside the row if they are not 0, 1, 2, ..., else None
    groups:    uint8 `[N]`, class of each token for weight rules (0 boilerplate, 1 reasoning); None without classes
    inputs:    int64 `[N]`, what the model reads if that is not the row's own `tokens`, else None
    """

    tokens: np.ndarray
    roles: np.ndarray
    counters: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    row_start: np.ndarray
    ids: np.ndarray
    positions: np.ndarray | None = None
    groups: np.ndarray | None = None
    inputs: np.ndarray | None = None

    def __post_init__(self) -> None:
        num_tokens, num_rows = len(self.tokens), len(self.ids)
        per_token = (self.roles, self.counters, self.labels, self.weights, self.positions, self.groups, self.inputs)
        assert all(x is None or len(x) == num_tokens for x in per_token)
        assert len(self.row_start) == num_rows + 1 and self.row_start[0] == 0 and self.row_start[-1] == num_tokens

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64 `[B]`."""
        return np.diff(self.row_start)

    @property
    def read(self) -> np.ndarray:
        """What the model reads, int64 `[N]`."""
        return self.tokens if self.inputs is None else self.inputs

    @property
    def row_of_token(self) -> np.ndarray:
        """Index of the row each token belongs to, int64 `[N]`."""
        return np.repeat(np.arange(len(self.ids)), self.lengths)

    def with_labels(self, labels: np.ndarray) -> Flat:
        """A copy with these labels, int64 `[N]`."""
        return replace(self, labels=labels)

    def with_weights(self, weights: np.ndarray) -> Flat:
        """A copy with these weights, float32 `[N]`."""
        return replace(self, weights=weights)


def index_in_row(rows: Ragged) -> np.ndarray:
    """Place of each token in its row, counted from 0, int64 `[N]`."""
    return np.arange(len(rows.tokens)) - np.repeat(rows.row_start[:-1], np.diff(rows.row_start))


_IS_SUPERVISED = np.isin(np.arange(256), SUPERVISED_ROLES)


def is_supervised(roles: np.ndarray) -> np.ndarray:
    """Which tokens carry a label before any transform, bool `[N]`; a table, several times as fast as `np.isin`."""
    return _IS_SUPERVISED[roles]


def initial_labels(tokens: np.ndarray, roles: np.ndarray) -> np.ndarray:
    """Plain SFT labels: every token of a supervised role, `IGNORE` elsewhere; int64 `[N]`."""
    return np.where(is_supervised(roles), tokens, IGNORE).astype(np.int64)
