"""Rows that count by what models which are aligned already think of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cot_components.data.rows.scores import open_scores
from cot_components.data.rows.selection import Selection
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PoFT:
    """Weigh each row by `sigmoid(mean_j r_j - r)`, `r` being its log-probability per token under the model, `r_j` under
    aligned model `j` (preference-oriented fine-tuning, Fan et al., arXiv 2412.12865). No row is left out.

    In the paper `r` follows the model as it learns; here it is that of the model before training. The paper sums over
    rows the mean over their tokens; here, as everywhere, every token counts alike within its step. `cot score` takes
    models with the tokenizer of the data; the paper's aligned models have their own.

    Args:
        scores: folder that `cot score` has filled.
        aligned: columns of the aligned models, at least one: `cot score CONFIG --model FOLDER --name teacher` makes
            `teacher_nll`.
        column: the losses of the model itself, in nats.

    Raises:
        UserError: no aligned model; no such scores; when called, unfinished ones, or a row that was not scored, or with
            other tokens.
    """

    scores: str
    aligned: Sequence[str]
    column: str = "nll"

    def __post_init__(self) -> None:
        if isinstance(self.aligned, str) or not self.aligned:
            raise UserError(f"poft: aligned must be a list of columns, one for each model, got {self.aligned!r}")
        for name in (self.column, *self.aligned):
            open_scores(self.scores).column(name)

    def __call__(self, rows: Rows) -> Selection:
        """A factor for every row, between 0 and 1."""
        found = open_scores(self.scores)
        theirs = np.mean([found.row_means(name) for name in self.aligned], axis=0)
        gap = (theirs - found.row_means(self.column))[found.index_of(rows)]  # of losses: r - mean_j r_j
        return Selection(factors=(1 / (1 + np.exp(gap))).astype(np.float32))
