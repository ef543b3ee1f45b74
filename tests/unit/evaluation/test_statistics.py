"""Intervals and several samples of one prompt."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from cot_components.evaluation.statistics import majority, pass_at_k, wilson_interval


@given(st.integers(0, 300), st.integers(1, 300))
@example(0, 20)
@example(300, 300)
def test_wilson_is_that_of_scipy(successes, count):
    successes = min(successes, count)
    theirs = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes / count, count) == pytest.approx(theirs, abs=1e-8)


def test_no_examples_say_nothing():
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


def test_pass_at_k_is_the_share_of_lucky_draws():
    checked = 0
    for num_correct in range(6):
        outcomes = [True] * num_correct + [False] * (5 - num_correct)
        for k in range(1, 6):
            draws = list(itertools.combinations(outcomes, k))
            assert pass_at_k(num_correct, 5, k) == pytest.approx(sum(map(any, draws)) / len(draws))
            checked += 1
    assert checked == 30
    with pytest.raises(ValueError, match="k must lie in"):
        pass_at_k(1, 5, 6)


def test_majority():
    assert majority(["a", "b", "b", None]) == "b"
    assert majority(["b", "a", "a", "b"]) == "b", "the earliest among equals"
    assert majority([None, None, "a"]) == "a"
    assert majority([None]) is None and majority([]) is None
