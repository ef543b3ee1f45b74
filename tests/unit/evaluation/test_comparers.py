"""When an answer is right: exactly, or as mathematics."""

import importlib.util
import threading

import pytest

from cot_components.errors import UserError
from cot_components.evaluation.comparers import find_comparer, math_match

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
