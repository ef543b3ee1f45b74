"""Q-Tuning's tokens (arXiv 2509.23873): where the model is wrong and sure, a row's hardest tokens do not count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.scores import open_scores, scored_tokens
from cot_components.errors import UserError
from cot_components.selectors.qtuning import plane_of


@dataclass(frozen=True, kw_only=True)
class QTuning:
    """Take tokens of high perplexity out of the loss, in rows on which the model is wrong and sure and in no others;
    they stay in context. Goes with the selector `QTuning`, which leaves out rows.

    A token's score is `(1 - smoothing) * p + smoothing * (p before + p after)`, with `p` the `exp` of its loss, so a
    spike by itself is spared. The highest leave until `keep_rows * keep_tokens` of all scored tokens are left, those of
    rows that leave being gone already. The budget is that of the whole data set, the model the one before training; the
    paper takes each batch and the model as it learns. Prompts are no neighbours and do not count, which is where the
    released code differs.

    Args:
        scores: folder that `cot score` has filled.
        keep_rows: share of the rows that the selector keeps, above 0 and at most 1.
        keep_tokens: share of their tokens that count, 0 to 1, if rows that may be pruned have as many to give.
        smoothing: weight of the neighbours, 0 to 1.
        nll, entropy: names of the two columns, both in nats.

    Raises:
        UserError: a setting out of range; no such scores; when called, unfinished ones, or a row that was not scored,
            or with other tokens.
    """

    scores: str
    keep_rows: float = 0.5
    keep_tokens: float = 0.5
    smoothing: float = 0.5
    nll: str = "nll"
    entropy: str = "entropy"

    needs_epoch = False
    needs_whole_rows = True

    def __post_init__(self) -> None:
        if not 0 < self.keep_rows <= 1:
            raise UserError(f"q-tuning: keep_rows must lie in (0, 1], got {self.keep_rows}")
        for name in ("keep_tokens", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"q-tuning: {name} must lie in [0, 1], got {getattr(self, name)}")
        for name in (self.nll, self.entropy):
            open_scores(self.scores).column(name)

    @property
    def plane(self) -> tuple[str, str, str, float]:
        """What decides where a row lies: the selector `QTuning` must say the same."""
        return self.scores, self.nll, self.entropy, self.keep_rows

    def fingerprint(self) -> str:
        """What must be the same when a run is resumed: the scores."""
        return open_scores(self.scores).fingerprint(self.nll, self.entropy)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change `weights` alone: 0 at pruned tokens."""
        found = open_scores(self.scores)
        plane = plane_of(self.scores, self.nll, self.entropy, self.keep_rows, found.stamp)
        in_reach = np.repeat(plane.misconceived[found.index_of(flat)], flat.lengths) & scored_tokens(flat)
        if not in_reach.any():
            return flat
        (losses,) = found.gather(flat, self.nll)
        gone = in_reach & (smoothed(losses, flat.row_start, self.smoothing) > _highest_kept(self, found.stamp))
        return flat.with_weights(np.where(gone, np.float32(0), flat.weights))


def smoothed(losses: np.ndarray, row_start: np.ndarray, smoothing: float) -> np.ndarray:
    """Score of each token from the losses of rows end to end, NaN where there is none; float64 `[N]`."""
    perplexity = np.exp(np.nan_to_num(losses.astype(np.float64), nan=-np.inf))  # 0 where there is none
    before, after = np.roll(perplexity, 1), np.roll(perplexity, -1)
    begins = row_start[:-1][np.diff(row_start) > 0]
    before[begins] = 0.0
    after[begins - 1] = 0.0  # the last token of the row before, or of all
    return (1 - smoothing) * perplexity + smoothing * (before + after)


@lru_cache(maxsize=8)
def _highest_kept(rule: QTuning, stamp: int) -> float:
    """The highest score that stays in the loss, over all scored rows; infinite where nothing must leave."""
    found = open_scores(rule.scores)
    plane = plane_of(rule.scores, rule.nll, rule.entropy, rule.keep_rows, stamp)
    losses, lengths = np.asarray(found.column(rule.nll)), np.diff(found.row_start)
    scored = ~np.isnan(losses)
    kept = scored & np.repeat(plane.misconceived | plane.unsure, lengths)
    in_reach = scored & np.repeat(plane.misconceived, lengths)
    scores = np.sort(smoothed(losses, found.row_start, rule.smoothing)[in_reach])
    leaving = max(int(kept.sum()) - round(rule.keep_rows * rule.keep_tokens * int(scored.sum())), 0)
    if leaving == 0:
        return np.inf
    return -np.inf if leaving >= len(scores) else float(scores[-leaving - 1])
