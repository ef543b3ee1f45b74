"""Among several responses to one prompt, those that fit the model best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cot_components.data.rows.odd_rows import prompt_hashes
from cot_components.data.rows.scores import open_scores
from cot_components.data.rows.selection import Selection
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GRAPE:
    """Among rows with the same prompt (identical tokens), keep those the model finds likeliest (Zhang et al., arXiv
    2502.04194). A prompt with a single response keeps it.

    The paper uses the probability per token, and candidates known to be correct: GRAPE does not check answers.

    Args:
        scores: folder that `cot score` has filled with the model before training.
        keep: responses kept per prompt, at least 1; ties go to the first.
        by: `mean`, the log-probability per token; or `sum`, that of the whole response, which favours short ones.
        column: the losses of the tokens, in nats.

    Raises:
        UserError: a setting out of range; no such scores; when called, unfinished scores, or a row that was not scored,
            or was scored with other tokens.
    """

    scores: str
    keep: int = 1
    by: Literal["mean", "sum"] = "mean"
    column: str = "nll"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"grape: keep must be at least 1, got {self.keep}")
        if self.by not in ("mean", "sum"):
            raise UserError(f"grape: by must be 'mean' or 'sum', got {self.by!r}")
        open_scores(self.scores).column(self.column)

    def __call__(self, rows: Rows) -> Selection:
        """Leave out every row that is not among the best `keep` of its prompt."""
        found = open_scores(self.scores)
        losses = (found.row_means if self.by == "mean" else found.row_sums)(self.column)[found.index_of(rows)]
        return Selection({"another response to the prompt fits better": rank_in_prompt(rows, losses) >= self.keep})


def rank_in_prompt(rows: Rows, values: np.ndarray) -> np.ndarray:
    """Rank of each row among the rows of its prompt, lowest value first, ties in row order; int64 `[B]`."""
    prompt = np.unique(prompt_hashes(rows), return_inverse=True)[1]
    order = np.lexsort((np.arange(len(rows)), values, prompt))
    begins = np.flatnonzero(np.diff(prompt[order], prepend=-1))
    sizes = np.diff(np.append(begins, len(rows)))
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(begins, sizes)
    return rank
