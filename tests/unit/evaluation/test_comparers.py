"""When an answer is right, exactly or as mathematics; intervals, and several samples of one prompt."""

import importlib.util
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.errors import UserError
from cot_components.evaluation.comparers import find_comparer, math_match
from cot_components.evaluation.statistics import majority, pass_at_k, wilson_interval

EQUAL = [
    *(("x^2 - 4", "(x-2)(x+2)"), ("$x^2-4$", r"\((x+2)(x-2)\)"), (r"\{2, 1\}", r"\{1,2\}"), ("Ottawa.", "ottawa")),
    *((r"\sqrt{12}", r"2\sqrt{3}"), (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), (r"\boxed{2\pi}", r"2\pi")),
    *(("x = 5", "5"), ("2^{10}", "1024"), ("0.5", r"\frac{1}{2}")),
]
DIFFERENT = [
    *(("x^2 - 4", "(x-2)(x+3)"), ("(2, 1)", "(1, 2)"), ("-5", "5"), ("40%", "40"), ("listen", "silent")),
    *(("2024-01-05", "2018"), ("3:45", r"\frac{1}{15}"), ("1.2.3", "0.36"), ("5 minutes", "5"), ("3rd", "3")),
    *(("007", "7"), ("", "5"), ("}{", "5"), ("9 500", "509")),  # math-verify multiplies, or reads a part
]


@pytest.mark.parametrize("equal", [True, False])
def test_equal_as_mathematics(equal):
    pairs = EQUAL if equal else DIFFERENT
    assert [pair for pair in pairs if math_match(*pair) is not equal] == []


def test_it_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(math_match("x + x", "2x")))
    thread.start()
    thread.join()
    assert found == [True]


def test_what_takes_too_long_is_not_equal(monkeypatch):
    monkeypatch.setattr("cot_components.evaluation.comparers.SECONDS", 1)
    assert math_match("9^{9^{9^{9}}}", "5") is False


def test_comparers_are_found_by_name_or_given_and_a_missing_package_is_named(monkeypatch):
    assert find_comparer("math") is math_match and find_comparer("exact")("1/2", "0.5")
    assert find_comparer(str.__eq__) is str.__eq__
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="math-verify"):
        find_comparer("math")


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
