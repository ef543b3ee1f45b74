"""When an extracted answer is right: a function of the answer and the reference. Configs name one of `COMPARERS`."""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
from collections.abc import Callable

from cot_components.config import nearest
from cot_components.data.read.bfcl import accepted_calls
from cot_components.data.read.calls import canonical_calls
from cot_components.errors import UserError
from cot_components.evaluation.extract import exact_match, peeled
from cot_components.evaluation.numbers import read_number, written
from cot_components.evaluation.tool_calls import calls_match, parse_calls

Comparer = Callable[[str, str], bool]

MATH_PACKAGE = "math_verify"
SECONDS = 5
"""For reading an expression, and again for comparing two: `9^9^9^9` would take for ever."""

_FUNCTIONS = re.compile(r"\\[A-Za-z]+|\b(?:sqrt|pi|log|ln|exp|sin|cos|tan|max|min)\b")
_NO_EXPRESSION = re.compile(r"[^\W\d_]{2}|\d\s+\d|\d:\d|\d[_']\d|\d\.\d+\.\d|\d+[-/]\d+[-/]\d|\b0\d")


def math_match(answer: str, reference: str) -> bool:
    """Whether both are equal as mathematics, by the package math-verify: `x^2-1` and `(x-1)(x+1)`.

    What `exact_match` takes for equal is so here, and it alone decides on two numbers, and on anything with a word, a
    date or a number of uncertain spelling in it, of which math-verify would read a part, or a product of letters.
    Outside the main thread nothing limits the time.
    """
    if exact_match(answer, reference):
        return True
    texts, numbers = [peeled(text) for text in (reference, answer)], [read_number(text) for text in (reference, answer)]
    if None not in numbers or any(
        number is None and _NO_EXPRESSION.search(_FUNCTIONS.sub(" ", text))
        for text, number in zip(texts, numbers, strict=True)
    ):
        return False
    from math_verify import parse, verify

    logging.getLogger(MATH_PACKAGE).setLevel(logging.CRITICAL)  # it warns of what took too long
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    spelled = [text if number is None else written(number) for text, number in zip(texts, numbers, strict=True)]
    right, given = (parse(f"${text}$", parsing_timeout=seconds) for text in spelled)
    return bool(verify(right, given, timeout_seconds=seconds))


def calls_equal(answer: str, reference: str) -> bool:
    """Whether the answer makes the calls of the reference in any order: any of the accepted ones where the row names
    several (format `bfcl`, see `tool_calls`), else exactly these.
    """
    calls, accepted = parse_calls(answer), accepted_calls(reference)
    if accepted is not None:
        return calls_match(calls, *accepted)
    right = parse_calls(reference)
    return None not in (calls, right) and canonical_calls(calls or ()) == canonical_calls(right or ())


COMPARERS: dict[str, Comparer] = {"calls": calls_equal, "exact": exact_match, "math": math_match}


def find_comparer(comparer: str | Comparer) -> Comparer:
    """The comparer of a config: a name, or a function.

    Raises:
        UserError: unknown name, or a package that is not installed.
    """
    if callable(comparer):
        return comparer
    if comparer not in COMPARERS:
        raise UserError(f"unknown comparer '{comparer}'{nearest(comparer, COMPARERS)}")
    if comparer == "math" and importlib.util.find_spec(MATH_PACKAGE) is None:
        raise UserError("comparer 'math' needs the package math-verify: pip install 'cot-components[math]'")
    return COMPARERS[comparer]
