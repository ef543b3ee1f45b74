"""Intervals and several samples of one prompt."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from cot_components.evaluation.statistics import majority, paired_difference, pass_at_k, wilson_interval


@given(st.integers(0, 300), st.integers(1, 300))
@example(0, 20)
@example(300, 300)
def test_wilson_is_that_of_scipy(successes, count):
    successes = min(successes, count)
    theirs = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes / count, count) == pytest.approx(theirs, abs=1e-8)


def test_no_examples_say_nothing():
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


def pairs(both, first, second, neither):
    """Scores of examples that both get right, only the first, only the second, and neither."""
    return [1] * (both + first) + [0] * (second + neither), [1] * both + [0] * first + [1] * second + [0] * neither


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        ((1, 7, 1, 12), (-0.507, -0.026)),  # Fagerland, Lydersen, Laake (2014): airway hyper-responsiveness
        ((14, 0, 5, 22), (0.011, 0.226)),  # Altman et al. (2000), Statistics with Confidence, table 6.2
    ],
)
def test_paired_intervals_against_published_figures(counts, published):
    found = paired_difference(*pairs(*counts))
    assert (found.low, found.high) == pytest.approx(published, abs=6e-4) and found.num_examples == sum(counts)
    assert found.value == pytest.approx((counts[2] - counts[1]) / sum(counts))


@given(st.lists(st.tuples(st.sampled_from((0, 0.5, 1)), st.sampled_from((0, 0.5, 1))), min_size=1, max_size=40))
def test_paired_intervals_hold_the_difference_and_mirror(scores):
    first, second = zip(*scores, strict=True)
    found, mirrored = paired_difference(first, second), paired_difference(second, first)
    assert -1 - 1e-9 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1 + 1e-9
    assert (-mirrored.high, -mirrored.low) == pytest.approx((found.low, found.high))


def test_paired_intervals_need_pairs():
    for first, second in (([1], []), ([], [])):
        with pytest.raises(ValueError, match="the same examples"):
            paired_difference(first, second)


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
