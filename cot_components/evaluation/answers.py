"""Answers in text: where they stand, when two are the same, and whether a completion has the form thought, then answer.

An extractor is a plain function from the text after the thought to the answer, or None. Configs name one of
`EXTRACTORS`, or several that are tried in turn.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from cot_components.config import nearest
from cot_components.errors import UserError
from cot_components.evaluation.tool_calls import tool_calls

if TYPE_CHECKING:
    from cot_components.data.segments import Tags

Extractor = Callable[[str], str | None]

_ANSWER = re.compile(r"\banswer(?: +is)?[ *_]*:", re.IGNORECASE)
_HASHES = re.compile("####")
_NUMBER = re.compile(r"(?:(?<![\w).])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")
_EMPHASIS = "*_` \t\r\n"


def answer_line(text: str) -> str | None:
    """The line after the last `Answer:`, on the same line or below, in any case, without Markdown emphasis."""
    return _line_after_last(_ANSWER, text)


def gsm8k(text: str) -> str | None:
    """The line after the last `####`, as in GSM8K and the implicit-CoT data."""
    return _line_after_last(_HASHES, text)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, braces inside it balanced; None when its braces never close."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start, depth = start + len("\\boxed{"), 1
    for end in range(start, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if depth == 0:
                return text[start:end].strip() or None
    return None


def last_number(text: str) -> str | None:
    """The last number, with its sign (U+2212 as a hyphen) and thousands separators."""
    found = _NUMBER.findall(text.replace("\u2212", "-"))
    return found[-1] if found else None


def whole(text: str) -> str | None:
    """The whole text."""
    return text.strip() or None


EXTRACTORS: dict[str, Extractor] = {f.__name__: f for f in (answer_line, boxed, gsm8k, last_number, tool_calls, whole)}


def _line_after_last(pattern: re.Pattern[str], text: str) -> str | None:
    found = list(pattern.finditer(text))
    rest = text[found[-1].end() :].strip(_EMPHASIS) if found else ""
    return rest.splitlines()[0].strip(_EMPHASIS) or None if rest else None


def find_extractor(extractor: str | Sequence[str] | Extractor) -> Extractor:
    """The extractor of a config: a name, several names of which the first to find something counts, or a function.

    Raises:
        UserError: unknown name, or no name at all.
    """
    if callable(extractor):
        return extractor
    names = [extractor] if isinstance(extractor, str) else list(extractor)
    if not names:
        raise UserError("extractor: name at least one")
    for name in names:
        if name not in EXTRACTORS:
            raise UserError(f"unknown extractor '{name}'{nearest(name, EXTRACTORS)}")
    functions = [EXTRACTORS[name] for name in names]
    return lambda text: next((answer for f in functions if (answer := f(text)) is not None), None)


def split_completion(text: str, tags: Tags) -> tuple[str | None, str | None]:
    """Thought and answer part: before and after the last close tag.

    A text that opens a thought and never closes it has no answer part; one without any tag is all answer.
    """
    before, close, after = text.rpartition(tags.close)
    _, opened, thought = (before if close else after).partition(tags.open)
    if close:
        return (thought if opened else before), after
    return (thought, None) if opened else (None, text)


def extract_answer(text: str, tags: Tags, extractor: str | Sequence[str] | Extractor = "answer_line") -> str | None:
    """The answer of a completion, looked for after its thought only; None when there is none."""
    _, answer_part = split_completion(text, tags)
    return None if answer_part is None else find_extractor(extractor)(answer_part)


def format_ok(text: str, tags: Tags) -> bool:
    """Whether the text is a thought, then an answer: one open tag, one close tag in this order, text after them."""
    if text.count(tags.open) != 1 or text.count(tags.close) != 1:
        return False
    before, _, answer = text.partition(tags.close)
    return tags.open in before and bool(answer.strip())


_WRAPPERS = (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("*", "*"), ("`", "`"))
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(r"([-+]?)(\d*)(?:\.(\d*))?")


def normalise(answer: str) -> str:
    """What two spellings of one answer have in common; conservative, because a wrong match is worse than a missed one.

    Goes: white space around and double, case, full stops at the end, Markdown and math delimiters around the whole, a
    currency sign before a number; and if the whole is a number, its thousands separators, plus sign and trailing zeros
    after the point. Units and words stay.
    """
    text = " ".join(unicodedata.normalize("NFC", answer).replace("\u2212", "-").split()).casefold()
    while (shorter := _peel(text)) != text:
        text = shorter
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    return _canonical_number(text)


def _peel(text: str) -> str:
    """The text without one layer of wrapping."""
    text = text.strip().removesuffix(".").rstrip()
    for opening, closing in _WRAPPERS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner:
                return inner
    return re.sub(r"^([-+]?)\\?[$\u20ac\u00a3] ?(?=[-+]?[\d.])", r"\1", text)


def _canonical_number(text: str) -> str:
    match = _PLAIN.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return text
    sign, whole_part, fraction = "-" if match[1] == "-" else "", match[2] or "0", (match[3] or "").rstrip("0")
    number = f"{whole_part}.{fraction}" if fraction else whole_part
    return number if not Decimal(number) else sign + number


def exact_match(answer: str | None, reference: str) -> bool:
    """Whether both are the same answer after `normalise`."""
    return answer is not None and normalise(answer) == normalise(reference)
