"""Numbers are read whole, in every spelling, or not at all."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cot_components.evaluation.comparers import exact_match, normalise
from cot_components.evaluation.numbers import last_number, read_number, written

SPELLINGS = {
    "-7": ["-$7", "$-7", "\u22127", r"-\$7", "-EUR 7", "minus 7"],
    "7": ["\u20ac 7", "+7"],
    "-7.25": ["-US$7.25"],
    "8200": ["8,200", "8{,}200", r"8,\!200", r"8\,200", "8\u2009200", "8\u00a0200", "8'200", "8\u2019200", "8_200"],
    "8200.5": ["8,200.5", "8.200,5", "8\u2009200,5"],
    "8200300": ["8\u202f200\u202f300"],
    "8200300.5": ["8.200.300,5"],
    "8.2": ["8.200"],
    "0.25": [".25"],
    "0.0025": ["2.5e-3", "2.5 \u00d7 10^-3"],
    "2500": ["2.5E3", r"2.5 \times 10^{3}", "2.5\u00b710\u00b3"],
    "1000": ["1e0000000003"],
    "0.01": ["10\u207b\u00b2"],
    "1" + "0" * 400: ["1e400"],
    "3/8": ["3/8", r"\frac{3}{8}", r"\frac38", "\u215c"],
    "-3/8": ["-3/8", r"-\dfrac{3}{8}", r"\frac{-3}{8}"],
    "3/4": ["6/8"],
    "19/8": ["2 3/8", "2\u215c", "2 and 3/8"],
    "-19/8": [r"-2\frac{3}{8}"],
    "2/5": ["40%", r"40\,\%", r"40\%", "40 percent"],
    "4000000": ["4 million"],
    "42": ["\u0664\u0662", "\uff14\uff12"],
    "0": ["-0.0"],
}


@pytest.mark.parametrize(("value", "text"), [(value, text) for value, texts in SPELLINGS.items() for text in texts])
def test_spellings_of_a_number(text, value):
    assert read_number(text) == Fraction(value)
    assert exact_match(text, value) and exact_match(last_number(f"It is {text}."), value)


def test_a_blank_behind_the_sign():
    """In running text it may be a dash."""
    assert read_number("- 7") == -7 and last_number("- 7") is None and last_number("= - 7") == "-7"


NOT_ONE = [
    *("8,20", "8,20,300", "8.200.300", "8 200", "1,2,3", "0,200", "007", "-007", "1/0", "1e1000", "1" * 301),
    *("3:45", "12:30:15", "2024-01-05", "3/4/2020", "1.2.3", "192.168.0.1", "555-1234", "5 p.m.", "3rd", "2x", "3D"),
    *("3-5", "3\u20135", "8 - 3", "8 -3", "4 * 3", "--5", "-$-5", "\u00b15", "5 \u00b1 1", "0.333...", "$5k", "0x1F"),
    *(r"3\pi", r"\sqrt{3}", r"2\sqrt{3}", r"\frac{x}{3}", "5^2", "2^{10}", "5\u00b2", "-(5)", "2(x+1)", "3 + 4i"),
    *("5 and a half", "2 thirds", "5\u4e07"),
]


@pytest.mark.parametrize("text", NOT_ONE)
def test_what_is_not_one_number_is_none(text):
    assert read_number(text) is None
    assert last_number(text) is None and last_number(f"So it is {text} here") is None


@pytest.mark.parametrize("text", ["", "-", "$", ".", "nan", "NaN", "inf", "-Infinity", "five", "5 kg", "\u00bd\u00bd"])
def test_what_is_no_number_alone(text):
    assert read_number(text) is None


IN_TEXT = {
    "-7": ["His balance is -$7.", "He pays $-7 today", "So \\(x = -7\\).", "$x = - 7$", "It is **-7**.", "minus 7"],
    "7": [
        *("it weighs 7 kg", "it weighs 7kg.", "a 7-year plan", "$7/hour", "7 m\u00b2", "7 cm^{2}", r"7\text{ cm}"),
        *("It is **7**.", "7!", "7...", "1. 7 apples", "7 grams of CO2", "7, says GPT-4", "\u7b54\u6848\u662f7\u4e2a"),
    ],
    "90": ["turn by 90\u00b0", r"90^\circ"],
    "16": ["8 * 2 = 16.", "<<8*2=16>>16 apples"],
    "2020": ["On May 5, 2020"],
    "2": ["1\n2"],
    "12.5%": ["12.5% of it"],
    "3 million": ["$3 million"],
    None: ["x2 and GPT-4", "it is - 7", "Result:\n- 7 apples", "7 (see 3:45)", "10 minus 7"],
}


@pytest.mark.parametrize(("found", "text"), [(found, text) for found, texts in IN_TEXT.items() for text in texts])
def test_numbers_in_running_text(text, found):
    assert last_number(text) == found


NUMBERS = st.builds(lambda n, places: Fraction(n, 10**places), st.integers(-(10**9), 10**9), st.integers(0, 4))
MARKS = st.sampled_from(["", ",", "{,}", "\\,", "\u2009", "\u00a0", "\u202f", "'", "_"])
MONEY = st.sampled_from(["", "$", "\\$", "\u20ac", "\u00a3 ", "US$"])
AROUND = ["So {}.", "x = {}", "**{}**", "it is {} kg", "({})", "{}", "Total: {}, as said", "about {} in all"]


@given(NUMBERS, MARKS, MONEY, st.sampled_from("-\u2212"), st.booleans(), st.sampled_from(AROUND))
def test_any_number_in_any_spelling_is_read_as_itself(number, mark, money, minus, before, around):
    whole, point, rest = written(abs(number)).partition(".")
    digits, sign = f"{int(whole):,}".replace(",", mark) + point + rest, minus if number < 0 else ""
    text = f"{sign}{money}{digits}" if before else f"{money}{sign}{digits}"
    assert read_number(text) == number and Fraction(normalise(text)) == number
    assert read_number(last_number(around.format(text))) == number


@given(st.integers(-(10**6), 10**6), st.integers(1, 999), st.integers(-30, 30))
def test_fractions_and_powers(top, bottom, power):
    value, sign, size = Fraction(top, bottom), "-" if top < 0 else "", abs(top)
    for text in (f"{top}/{bottom}", rf"{sign}\frac{{{size}}}{{{bottom}}}", rf"\frac{{{top}}}{{{bottom}}}"):
        assert read_number(text) == value and read_number(last_number(f"= ${text}$.")) == value
    for text in (f"{top}e{power}", rf"{top} \times 10^{{{power}}}", f"{top} \u00d7 10^{power}"):
        assert read_number(text) == top * Fraction(10) ** power == read_number(last_number(f"So {text}."))
    whole, rest = divmod(size, bottom)
    if whole and rest:
        mixed = (f"{sign}{whole} {rest}/{bottom}", rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}")
        assert {read_number(text) for text in mixed} == {value}


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.sampled_from(":-\u2013/.,'_ ^*+\u00d7~|;"))
def test_two_numbers_joined_are_never_read_as_one_of_them(first, second, joint):
    assume(str(first) not in str(second) and str(second) not in str(first))
    text = f"{first}{joint}{second}"
    number = read_number(text)
    assert number not in (first, second) or (joint == "/" and number == Fraction(first, second))
    found = last_number(f"It is {text}")
    separate = joint in "|;" or (joint == "~" and number is None)
    assert found is None or separate or read_number(found) == number


@given(st.integers(1000, 10**8), st.data())
def test_a_corrupted_number_is_whole_or_none(number, data):
    """One more character somewhere inside: another number with all the digits, or none."""
    digits = str(number)
    place = data.draw(st.integers(1, len(digits) - 1))
    text = digits[:place] + data.draw(st.sampled_from(",._'-:/ex^%$ \u2009\u22120")) + digits[place:]
    found = last_number(f"It is {text}.")
    assert found is None or [c for c in found if c.isdigit()] == [c for c in text if c.isdigit()]


@given(st.one_of(st.text(), st.text("-+$%.,/\\{}^e0123456789 x'_\u2009\u00bd\u00b2", max_size=14)))
def test_any_text_is_read_without_an_error(text):
    found, number = last_number(text), read_number(text)
    assert found is None or read_number(found) is not None
    assert number is None or len(written(number)) > 300 or read_number(written(number)) == number


@given(st.fractions())
def test_a_value_has_one_spelling(value):
    assert Fraction(written(value)) == value and read_number(written(value)) == value


REPEATED = ["1", "1,", "1 ", "- ", "1/", "<", "\\frac{1}{2}", "1,000", "$", "{1", "\\frac{1,000"]


@pytest.mark.parametrize("piece", REPEATED)
def test_long_texts_take_linear_work(piece):
    """Quadratic patterns would run for hours here."""
    text = piece * 20_000
    assert read_number(text) is None
    last_number(text)
