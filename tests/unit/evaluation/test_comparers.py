"""When an answer is right: exactly, or as mathematics."""

import importlib.util
import threading

import pytest

from cot_components.errors import UserError
from cot_components.evaluation.comparers import find_comparer, math_match


@pytest.mark.parametrize(
    ("answer", "reference", "equal"),
    [
        ("x^2 - 4", "(x-2)(x+2)", True),
        ("$x^2-4$", r"\((x+2)(x-2)\)", True),
        (r"\sqrt{12}", r"2\sqrt{3}", True),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
        (r"\{2, 1\}", r"\{1,2\}", True),
        ("x = 5", "5", True),
        ("2^{10}", "1024", True),
        (r"\boxed{2\pi}", r"2\pi", True),
        ("0.5", r"\frac{1}{2}", True),
        ("Ottawa.", "ottawa", True),
        ("x^2 - 4", "(x-2)(x+3)", False),
        ("(2, 1)", "(1, 2)", False),
        ("-5", "5", False),
        ("40%", "40", False),
        ("9 500", "509", False),  # math-verify multiplies, or reads a part
        ("2024-01-05", "2018", False),
        ("3:45", r"\frac{1}{15}", False),
        ("1.2.3", "0.36", False),
        ("5 minutes", "5", False),
        ("3rd", "3", False),
        ("007", "7", False),
        ("listen", "silent", False),
        ("", "5", False),
        ("}{", "5", False),
    ],
)
def test_equal_as_mathematics(answer, reference, equal):
    assert math_match(answer, reference) is equal


def test_it_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(math_match("x + x", "2x")))
    thread.start()
    thread.join()
    assert found == [True]


def test_what_takes_too_long_is_not_equal(monkeypatch):
    monkeypatch.setattr("cot_components.evaluation.comparers.SECONDS", 1)
    assert math_match("9^{9^{9^{9}}}", "5") is False


def test_names_and_missing_packages_are_sentences(monkeypatch):
    assert find_comparer("math") is math_match and find_comparer("exact")("1/2", "0.5")
    assert find_comparer(str.__eq__) is str.__eq__
    with pytest.raises(UserError, match="unknown comparer 'maths'; did you mean 'math'"):
        find_comparer("maths")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"comparer 'math' .*math-verify.*pip install"):
        find_comparer("math")
