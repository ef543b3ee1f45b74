"""Comparing the arms of a study seed by seed: differences, interactions and an exact test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from scipy import stats

from experiments.study import Result, Study, interval, spell, values_of

HALF_AN_ANSWER = 1 / 480
"""Added to both sides of a share before its logit is taken: most studies ask 240 questions."""


def paired(
    study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str
) -> tuple[tuple[float, float], int]:
    """Mean difference from the first arm and half its interval, over the seeds that both have; and how many."""
    found = differences(study, cells, arm, setting, metric)
    return interval(found), len(found)


def interaction(
    study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str
) -> tuple[tuple[float, float], int]:
    """The effect of two methods together beyond the sum of their separate effects, like `paired`; shares as logits."""
    found = interactions(study, cells, arm, setting, metric)
    return interval(found), len(found)


def differences(study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str) -> list[float]:
    """Differences from the first arm, by seed."""
    return _contrast(cells, [(1, arm), (-1, study.arms[0])], setting, metric, lambda value: value)


def interactions(study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str) -> list[float]:
    """Interactions of the two methods of a combined arm, by seed. Shares are compared as logits: near 0 or 1 the same
    effect moves a share less, which on raw shares looks like interference.
    """
    one, other = study.combined[arm]
    signs = [(1, arm), (1, study.arms[0]), (-1, one), (-1, other)]
    return _contrast(cells, signs, setting, metric, logit if metric in study.percent else lambda value: value)


def logit(share: float) -> float:
    """The logit of a share, kept half an answer away from 0 and 1."""
    return math.log((share + HALF_AN_ANSWER) / (1 - share + HALF_AN_ANSWER))


def _contrast(
    cells: Sequence[Result],
    signs: Sequence[tuple[int, str]],
    setting: str,
    metric: str,
    scale: Callable[[float], float],
) -> list[float]:
    found = [(sign, values_of(cells, arm, setting, metric)) for sign, arm in signs]
    seeds = sorted(set.intersection(*(set(values) for _, values in found)))
    return [sum(sign * scale(values[seed]) for sign, values in found) for seed in seeds]


def primary(study: Study, cells: Sequence[Result]) -> list[float]:
    """The primary comparison by seed; empty if there is none."""
    if study.effect is None:
        return []
    metric, arm, setting = study.effect
    return (interactions if arm in study.combined else differences)(study, cells, arm, setting, metric)


def exact_p(differences: Sequence[float]) -> float:
    """Two-sided p of the exact paired test: the share of all sign assignments whose mean is as far from 0; NaN for
    fewer than two values.
    """
    if len(differences) < 2:
        return math.nan
    how = {"permutation_type": "samples", "n_resamples": math.inf, "vectorized": True}
    return float(stats.permutation_test((differences,), _mean, **how).pvalue)


def _mean(values: Any, axis: int = -1) -> Any:
    return values.mean(axis=axis)


def arrived(study: Study, values: Sequence[float], metric: str) -> str:
    """How many runs succeeded, for a metric in `Study.arrives`; empty for others."""
    if metric not in study.arrives:
        return ""
    return f"{sum(value >= study.arrives[metric] for value in values)} of {len(values)}"


def spell_contrast(study: Study, metric: str, figure: tuple[float, float], *, combined: bool) -> str:
    """A difference from the first arm, or the interaction of a combined one, with its unit."""
    if combined and metric in study.percent:
        mean, width = figure
        return f"{mean:+.2f}{'' if math.isnan(width) else f' +- {width:.2f}'} logits"
    return spell(study, metric, figure, sign=True).removesuffix(" %") + " points" * (metric in study.percent)
