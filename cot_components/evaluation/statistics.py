"""Rates with their uncertainty, and what several samples of one prompt say together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

Vote = TypeVar("Vote", bound=Hashable)


def wilson_interval(rate: float, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Interval that holds the true rate with 95 % confidence when `rate` was seen on `count` independent examples.

    Score interval of E. B. Wilson (1927): unlike the normal approximation it stays in [0, 1], and has a width there.

    Args:
        rate: share of examples, 0 to 1.
        count: number of examples; 0 gives the whole range (0, 1).
        z: half width in standard deviations; the default is that of 95 %.
    """
    if count == 0:
        return 0.0, 1.0
    centre = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def pass_at_k(num_correct: int, num_samples: int, k: int) -> float:
    """Chance that at least one of `k` samples is correct, when `num_correct` of `num_samples` were.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. (2021), arXiv 2107.03374.

    Raises:
        ValueError: `k` is below 1 or above `num_samples`, or `num_correct` is above `num_samples`.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must lie in [1, num_samples], got k={k}, num_samples={num_samples}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority(votes: Sequence[Vote | None]) -> Vote | None:
    """The most frequent vote, the earliest among equals; None is no vote, and what comes of no votes."""
    counted = Counter(vote for vote in votes if vote is not None)
    return counted.most_common(1)[0][0] if counted else None
