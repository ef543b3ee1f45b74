"""When an answer is right: exactly, or as mathematics."""

import importlib.util
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.errors import UserError
from cot_components.evaluation.comparers import exact_match, find_comparer, math_match, normalise

SAME = [
    *(("Ottawa.", "ottawa"), (" 42\n", "42"), ("1,234", "1234"), ("1,234,567.80", "1234567.8"), ("72.0", "72")),
    *(("+5", "5"), ("-0", "0"), (".5", "0.50"), ("\u22125", "-5"), ("$461", "461"), (r"\$1,058", "1058")),
    *(("$42$", "42"), (r"\(x + 1\)", "x  + 1"), ("**42**.", "42"), ("`a b`", "A B"), ("caf\u00e9", "cafe\u0301")),
    *(("a\u00a0b", "a b"), (r"\boxed{\frac{1}{2}}", "0.5"), (r"$\boxed{9{,}500}$.", "9500"), (r"\text{Even}", "even")),
    *(("-$5", "-5"), ("3/6", "1/2"), ("50%", r"\frac{1}{2}"), ("1e400", "1" + "0" * 400)),
]
UNLIKE = [
    *(("5", "-5"), ("007", "7"), ("1 3 9", "139"), ("100,200", "1002000"), ("12,34", "1234"), ("1,2", "12")),
    *(("5 minutes", "5"), ("20 %", "20"), ("-$5", "5"), ("3:45", "345"), ("9 500", "9500"), ("nan", "NaN0")),
    *(("2", "10"), ("the match", "match"), ("x\u00b2", "x2"), ("1.5", "15"), ("3.", "3.1"), (None, "5"), ("", "5")),
    *(("$a$ and $b$", "a$ and $b"), ("Brasilia", "Bras\u00edlia")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_answer(one, other):
    assert normalise(one) == normalise(other)
    assert exact_match(one, other) and exact_match(other, one)


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_answers_that_differ(one, other):
    assert not exact_match(one, other)


ODD_TEXTS = [st.text("$*`.,+-0123456789 \\()[]", max_size=12), st.text("12/%e{}\\,.$\u2009 -", max_size=12)]


@given(st.one_of(st.text(), *ODD_TEXTS, st.decimals(allow_nan=False).map(str)))
def test_normalising_twice_changes_nothing(answer):
    assert normalise(normalise(answer)) == normalise(answer)


@given(st.integers(-(10**12), 10**12))
def test_numbers_match_their_spellings_and_no_other_number(number):
    for text in (f"{number:,}", f"${number}$", f"{number}.00", f" {number}. "):
        assert exact_match(text, str(number)) and not exact_match(text, str(number + 1))


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
