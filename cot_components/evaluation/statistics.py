"""Rates with their uncertainty, and statistics over several samples of one prompt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeVar

Vote = TypeVar("Vote", bound=Hashable)


def wilson_interval(rate: float, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of the true rate when `rate` was observed on `count` independent examples.

    Score interval of E. B. Wilson (1927): unlike the normal approximation it stays in [0, 1], and is not empty at the
    ends.

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


class Difference(NamedTuple):
    """How much higher a rate is than another, both on the same `num_examples` examples, with its 95 % interval."""

    value: float
    low: float
    high: float
    num_examples: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """How much higher the mean of `second` is than that of `first`, with its 95 % interval.

    Square-and-add interval for paired proportions, method 10 of R. G. Newcombe (1998), Statistics in Medicine 17,
    2635 to 2650: the Wilson intervals of both rates, joined by the correlation of the pairs, which is corrected for
    continuity. If two methods err on the same examples, their difference is more certain than their own intervals
    suggest.

    Args:
        first, second: scores in [0, 1] of the same `n` examples, in the same order; 1 for right, 0 for wrong, a share
            in between if an example was answered several times.

    Raises:
        ValueError: the two differ in number, or are empty.
    """
    n = len(first)
    if n != len(second) or n == 0:
        raise ValueError(f"scores of the same examples are needed, got {n} and {len(second)}")
    a, b = sum(first) / n, sum(second) / n
    (low_a, high_a), (low_b, high_b) = wilson_interval(a, n), wilson_interval(b, n)
    covariance = n * sum(x * y for x, y in zip(first, second, strict=True)) - sum(first) * sum(second)
    if covariance > 0:
        covariance = max(0.0, covariance - n / 2)
    variance_a, variance_b = (n * sum(x * x for x in scores) - sum(scores) ** 2 for scores in (first, second))
    spread = math.sqrt(max(0.0, variance_a * variance_b))
    correlation = covariance / spread if spread else 0.0

    def joined(of_a: float, of_b: float) -> float:
        return math.sqrt(max(0.0, of_a**2 - 2 * correlation * of_a * of_b + of_b**2))

    value = b - a
    return Difference(value, value - joined(high_a - a, b - low_b), value + joined(a - low_a, high_b - b), n)


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
    """The most frequent vote, the earliest among ties; None is not a vote, and the result if there are none."""
    counted = Counter(vote for vote in votes if vote is not None)
    return counted.most_common(1)[0][0] if counted else None
