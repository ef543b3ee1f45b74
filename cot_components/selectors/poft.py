"""Row weights from how likely already aligned models find each row."""

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

    In the paper `r` is that of the model as it learns; here, of the model before training. The paper averages over the
    tokens of a row, then sums over rows; here, as everywhere, all tokens of a step count equally. `cot score` needs
    models that share the data's tokenizer; the paper's aligned models have different ones.

    Args:
        scores: folder that `cot score` has filled.
        aligned: columns of the aligned models, at least one: `cot score CONFIG --model FOLDER --name teacher` makes
            `teacher_nll`.
        column: the losses of the model itself, in nats.

    Raises:
        UserError: no aligned model; no such scores; when called, unfinished scores, or a row that was not scored, or
            was scored with other tokens.
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
