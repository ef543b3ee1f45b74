"""Q-Tuning's tokens (arXiv 2509.23873): in rows on which the model is wrong and sure, the hardest tokens do not
count."""

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
    """Take tokens of high perplexity out of the loss, only in rows on which the model is wrong and sure; they stay in
    context. Use with the selector `QTuning`, which leaves out rows.

    A token's score is `(1 - smoothing) * p + smoothing * (p before + p after)`, with `p` the `exp` of its loss, so an
    isolated spike is spared. The highest-scoring tokens are pruned until `keep_rows * keep_tokens` of all scored tokens
    are left; tokens of rows the selector leaves out count as pruned. The budget is for the whole data set, under the
    model before training; the paper uses each batch and the model as it learns. Unlike in the released code, prompt
    tokens are neither neighbours nor counted.

    Args:
        scores: folder that `cot score` has filled.
        keep_rows: share of the rows that the selector keeps, above 0 and at most 1.
        keep_tokens: share of their tokens that count, 0 to 1, as far as the rows that may be pruned have enough tokens.
        smoothing: weight of the neighbours, 0 to 1.
        nll, entropy: names of the two columns, both in nats.

    Raises:
        UserError: a setting out of range; no such scores; when called, unfinished scores, or a row that was not scored,
            or was scored with other tokens.
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
        """The settings that place a row in the plane; those of the selector `QTuning` must match."""
        return self.scores, self.nll, self.entropy, self.keep_rows

    def fingerprint(self) -> str:
        """What must not change when a run is resumed: the scores."""
        return open_scores(self.scores).fingerprint(self.nll, self.entropy)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `weights`: 0 at pruned tokens."""
        found = open_scores(self.scores)
        plane = plane_of(self.scores, self.nll, self.entropy, self.keep_rows, found.stamp)
        in_reach = np.repeat(plane.misconceived[found.index_of(flat)], flat.lengths) & scored_tokens(flat)
        if not in_reach.any():
            return flat
        (losses,) = found.gather(flat, self.nll)
        gone = in_reach & (smoothed(losses, flat.row_start, self.smoothing) > _highest_kept(self, found.stamp))
        return flat.with_weights(np.where(gone, np.float32(0), flat.weights))


def smoothed(losses: np.ndarray, row_start: np.ndarray, smoothing: float) -> np.ndarray:
    """Score of each token, float64 `[N]`, from the losses of concatenated rows, NaN where a token has none."""
    perplexity = np.exp(np.nan_to_num(losses.astype(np.float64), nan=-np.inf))  # 0 where there is none
    before, after = np.roll(perplexity, 1), np.roll(perplexity, -1)
    begins = row_start[:-1][np.diff(row_start) > 0]
    before[begins] = 0.0
    after[begins - 1] = 0.0  # the last token of the row before, or of all
    return (1 - smoothing) * perplexity + smoothing * (before + after)


@lru_cache(maxsize=8)
def _highest_kept(rule: QTuning, stamp: int) -> float:
    """The highest score that stays in the loss, over all scored rows; infinite if nothing is pruned."""
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
