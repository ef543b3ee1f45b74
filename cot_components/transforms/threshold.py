"""Weights from a column of scores, or from the gap between two: only tokens on one side of a threshold count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.scores import Scores, open_scores, scored_tokens
from cot_components.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Only the tokens whose score is high enough (or low enough) count; the others weigh `factor`.

    `column: entropy, keep: 0.2` selects the fifth of the tokens at which the model is least sure: the forking tokens of
    Wang et al. (arXiv 2506.01939), who select them in every batch of the model's own samples. Here the share is of all
    scored tokens of the data set, so no weight depends on a batch.

    Args:
        scores: folder that `cot score` has filled.
        column: `entropy`, `nll`, `rank`, `top_probability`, or any other column in the folder.
        minus: a column to subtract from it, or None.
        keep: share of the scored tokens that count, above 0 and at most 1; equal scores count together.
        value: instead of `keep`: the threshold itself, inclusive, in the unit of the column.
        side: whether the `highest` scores count or the `lowest`.
        factor: what the weights of the other scored tokens are multiplied by.

    Raises:
        UserError: a setting out of range; neither or both of `keep` and `value`; no such scores; when called,
            unfinished scores, or a row that was not scored, or was scored with other tokens.
    """

    scores: str
    column: str = "entropy"
    minus: str | None = None
    keep: float | None = None
    value: float | None = None
    side: Literal["highest", "lowest"] = "highest"
    factor: float = 0.0

    needs_epoch = False
    needs_whole_rows = True

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.value is None):
            raise UserError("threshold: set one of keep and value")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UserError(f"keep must lie in (0, 1], got {self.keep}")
        if self.value is not None and not np.isfinite(self.value):
            raise UserError(f"threshold: value must be a finite number, got {self.value}")
        if self.side not in ("highest", "lowest"):
            raise UserError(f"threshold: side must be 'highest' or 'lowest', got {self.side!r}")
        require("threshold: factor", self.factor, 0.0)
        for name in self._columns:
            open_scores(self.scores).column(name)

    @property
    def _columns(self) -> tuple[str, ...]:
        return (self.column,) if self.minus is None else (self.column, self.minus)

    def fingerprint(self) -> str:
        """What must not change when a run is resumed: the scores."""
        return open_scores(self.scores).fingerprint(*self._columns)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `weights`: multiplied by `factor` at scored tokens on the other side."""
        found = open_scores(self.scores)
        sign = 1 if self.side == "highest" else -1
        score = sign * _difference(found.gather(flat, *self._columns))
        least = sign * self.value if self.value is not None else _least(self, sign, found.stamp)
        outside = scored_tokens(flat) & ~(score >= least)
        return flat.with_weights(np.where(outside, flat.weights * np.float32(self.factor), flat.weights))


def _difference(columns: list[np.ndarray]) -> np.ndarray:
    return columns[0] if len(columns) == 1 else columns[0] - columns[1]


@lru_cache(maxsize=8)
def _least(rule: Threshold, sign: int, stamp: int) -> float:
    """The lowest score of the kept share of all scored tokens."""
    found: Scores = open_scores(rule.scores)
    assert rule.keep is not None
    score = sign * _difference([found.finished(name) for name in rule._columns])
    return float(np.quantile(score, 1 - rule.keep, method="lower"))
