"""Q-Tuning (arXiv 2509.23873): rows in the plane of error and uncertainty; two of its four corners are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cot_components.data.rows.scores import open_scores
from cot_components.data.rows.selection import Selection
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError

HALVINGS, TOLERANCE = 10, 0.01


class Plane(NamedTuple):
    """Rows by corner, bool `[B]` each; rows in no corner are dropped too, being neither wrong nor unsure enough.

    misconceived: wrong and sure (Q2): kept, and its hardest tokens may be pruned
    unsure:       right and unsure (Q4): kept whole
    noise:        wrong and unsure (Q1)
    known:        right and sure (Q3)
    """

    misconceived: np.ndarray
    unsure: np.ndarray
    noise: np.ndarray
    known: np.ndarray


def error_uncertainty(perplexity: np.ndarray, entropy: np.ndarray, keep: float) -> Plane:
    """The corners that hold about the share `keep` of `B` rows, as the released code finds them.

    One level `a` cuts both axes at their quantiles `a` and `1 - a`; it is bisected, at most ten times, until the kept
    share is within 0.01 of `keep`. If rows are still missing, those are added whose scaled perplexity and entropy
    differ most.

    Args:
        perplexity, entropy: `[B]`.
        keep: share of the rows, above 0 and at most 1.
    """
    low, high = 0.0, 0.49
    for _ in range(HALVINGS):
        level = (low + high) / 2
        plane = _corners(perplexity, entropy, level)
        share = float((plane.misconceived | plane.unsure).mean())
        if abs(share - keep) < TOLERANCE:
            break
        low, high = (level, high) if share < keep else (low, level)
    lean = _scaled(perplexity) - _scaled(entropy)
    kept = plane.misconceived | plane.unsure
    missing = max(round(keep * len(lean)), 1) - int(kept.sum())
    order = np.argsort(-np.abs(lean), kind="stable")
    added = np.zeros(len(lean), dtype=bool)
    added[order[~kept[order]][: max(missing, 0)]] = True
    return Plane(
        plane.misconceived | (added & (lean >= 0)),
        plane.unsure | (added & (lean < 0)),
        plane.noise & ~added,
        plane.known & ~added,
    )


def _corners(perplexity: np.ndarray, entropy: np.ndarray, level: float) -> Plane:
    low_p, high_p = np.quantile(perplexity, [level, 1 - level])
    low_e, high_e = np.quantile(entropy, [level, 1 - level])
    return Plane(
        (perplexity > high_p) & (entropy <= low_e),
        (perplexity <= low_p) & (entropy > high_e),
        (perplexity > high_p) & (entropy > high_e),
        (perplexity <= low_p) & (entropy <= low_e),
    )


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values scaled to [0, 1]; all 0 if all are equal."""
    return (values - values.min()) / (np.ptp(values) or 1.0)


@lru_cache(maxsize=8)
def plane_of(scores: str, nll: str, entropy: str, keep: float, stamp: int) -> Plane:
    """The plane of all scored rows, in the folder's order; `stamp` is `Scores.stamp`.

    Raises:
        UserError: no such scores, or unfinished scores.
    """
    found = open_scores(scores)
    return error_uncertainty(np.exp(found.row_means(nll)), found.row_means(entropy), keep)


@dataclass(frozen=True, kw_only=True)
class QTuning:
    """Keep the rows on which the model is wrong and sure, or right and unsure; leave out noise, rows it already knows,
    and the middle (Q-Tuning, arXiv 2509.23873). The transform `QTuning` then prunes tokens.

    The paper uses the model as it learns and each batch's own plane; here it is the model before training and the plane
    of all scored rows, so whether a row is kept does not depend on its batch.

    Args:
        scores: folder that `cot score` has filled.
        keep: share of the scored rows that stay, above 0 and at most 1.
        nll, entropy: names of the two columns, both in nats.

    Raises:
        UserError: a share out of range; no such scores; when called, unfinished scores, or a row that was not scored,
            or was scored with other tokens.
    """

    scores: str
    keep: float = 0.5
    nll: str = "nll"
    entropy: str = "entropy"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"q-tuning: keep must lie in (0, 1], got {self.keep}")
        for name in (self.nll, self.entropy):
            open_scores(self.scores).column(name)

    @property
    def plane(self) -> tuple[str, str, str, float]:
        """The settings that place a row in the plane; those of the transform `QTuning` must match."""
        return self.scores, self.nll, self.entropy, self.keep

    def __call__(self, rows: Rows) -> Selection:
        """Leave out every row that is in neither of the two corners."""
        found = open_scores(self.scores)
        plane = plane_of(self.scores, self.nll, self.entropy, self.keep, found.stamp)
        misconceived, unsure, noise, known = (corner[found.index_of(rows)] for corner in plane)
        return Selection(
            {
                "noise: high perplexity and entropy": noise,
                "known: low perplexity and entropy": known,
                "neither wrong nor unsure enough": ~(misconceived | unsure),
            }
        )
