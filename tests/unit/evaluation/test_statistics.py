"""Intervals and several samples of one prompt."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.evaluation.statistics import majority, pass_at_k, wilson_interval

NEWCOMBE_1998 = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


def test_wilson_against_published_figures():
    for successes, count, low, high in NEWCOMBE_1998:
        assert wilson_interval(successes / count, count) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(0.0, 0) == (0.0, 1.0), "no examples say nothing"


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_solves_its_quadratic(successes, count):
    """The bounds are the rates from which the seen one is exactly z standard errors away."""
    rate = min(successes, count) / count
    low, high = wilson_interval(rate, count)
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert (rate - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / count, abs=1e-12)


def test_pass_at_k_is_the_share_of_lucky_draws():
    for num_correct, k in itertools.product(range(6), range(1, 6)):
        draws = list(itertools.combinations([True] * num_correct + [False] * (5 - num_correct), k))
        assert pass_at_k(num_correct, 5, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="k"):
        pass_at_k(1, 5, 6)


def test_majority():
    assert majority(["a", "b", "b", None]) == "b"
    assert majority(["b", "a", "a", "b"]) == "b", "the earliest among equals"
    assert majority([None, None, "a"]) == "a"
    assert majority([None]) is None and majority([]) is None
