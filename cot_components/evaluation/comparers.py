"""When an extracted answer is right: a function of the answer and the reference. Configs name one of `COMPARERS`;
`exact`, the default, compares what `normalise` makes of both.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import unicodedata
from collections.abc import Callable

from cot_components.config import nearest
from cot_components.data.read.bfcl import accepted_calls
from cot_components.data.read.calls import canonical_calls
from cot_components.errors import UserError
from cot_components.evaluation.extract import closing_brace
from cot_components.evaluation.numbers import read_number, written
from cot_components.evaluation.tool_calls import calls_match, parse_calls

Comparer = Callable[[str, str], bool]

MATH_PACKAGE = "math_verify"
SECONDS = 5
"""Time limit, once for parsing an expression and once for comparing two: `9^9^9^9` would take forever."""

_WRAPPERS = (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("*", "*"), ("`", "`"))
_COMMAND = re.compile(r"\\(?:boxed|fbox|text|mathrm|mathbf|textbf)\s*\{")

_FUNCTIONS = re.compile(r"\\[A-Za-z]+|\b(?:sqrt|pi|log|ln|exp|sin|cos|tan|max|min)\b")
_NO_EXPRESSION = re.compile(r"[^\W\d_]{2}|\d\s+\d|\d:\d|\d[_']\d|\d\.\d+\.\d|\d+[-/]\d+[-/]\d|\b0\d")


def normalise(answer: str) -> str:
    """A canonical spelling of an answer; conservative, because a wrong match is worse than a missed one.

    Removes outer and repeated white space, case, final full stops, Markdown and math delimiters around the whole, and a
    currency sign before a number. A number becomes its value, see `numbers`: 0.5, 1/2 and 50% are equal, 50% and 50 are
    not. Units and words are kept, and so are leading zeros, because 007 is a code.
    """
    text = unicodedata.normalize("NFC", answer).replace("\u2212", "-").casefold()
    text = peeled(text)
    plain = peeled(" ".join(text.split()))
    number = read_number(text) or read_number(plain)  # a thin space makes groups, an ordinary one does not
    return plain if number is None else written(number)


def peeled(text: str) -> str:
    """The text without any wrapping."""
    while (shorter := _peel(text)) != text:
        text = shorter
    return text


def _peel(text: str) -> str:
    """The text without one layer of wrapping."""
    text = text.strip().removesuffix(".").rstrip()
    if (command := _COMMAND.match(text)) and closing_brace(text, command.end()) == len(text) - 1:
        return text[command.end() : -1]
    for opening, closing in _WRAPPERS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner:
                return inner
    return re.sub(r"^([-+]?)\\?[$\u20ac\u00a3] ?(?=[-+]?[\d.])", r"\1", text)


def exact_match(answer: str | None, reference: str) -> bool:
    """Whether both are the same answer after `normalise`; None is no answer."""
    return answer is not None and normalise(answer) == normalise(reference)


def math_match(answer: str, reference: str) -> bool:
    """Whether both are equal as mathematics, by the package math-verify: `x^2-1` and `(x-1)(x+1)`.

    Whatever `exact_match` accepts is equal here too. It alone decides about two numbers, and about texts with a word, a
    date or an ambiguous number, which math-verify would parse only in part or as a product of letters. Outside the main
    thread there is no time limit.
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

    logging.getLogger(MATH_PACKAGE).setLevel(logging.CRITICAL)  # it warns about timeouts
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    spelled = [text if number is None else written(number) for text, number in zip(texts, numbers, strict=True)]
    right, given = (parse(f"${text}$", parsing_timeout=seconds) for text in spelled)
    return bool(verify(right, given, timeout_seconds=seconds))


def calls_equal(answer: str, reference: str) -> bool:
    """Whether the answer makes the calls of the reference in any order: any of the accepted ones if the row names
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
