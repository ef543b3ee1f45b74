"""Answers in text: where they are, and whether a completion has the form thought, then answer.

An extractor is a plain function from the text after the thought to the answer, or None. Configs name one of
`EXTRACTORS`, several that are tried in turn, or a user's component that returns one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cot_components.config import nearest
from cot_components.data.bad_rows import RowError
from cot_components.errors import UserError
from cot_components.evaluation.numbers import last_number
from cot_components.evaluation.tool_calls import tool_calls

if TYPE_CHECKING:
    from cot_components.data.text.segments import Tags

Extractor = Callable[[str], str | None]

_ANSWER = re.compile(r"\banswer(?: +is)?[ *_]*[:\uff1a]", re.IGNORECASE)
_HASHES = re.compile("####")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKED = re.compile(r"(?<!\S)####")
_BRACE = re.compile(r"\\.|([{}])", re.DOTALL)
_EMPHASIS = "*_` \t\r\n"


def answer_line(text: str) -> str | None:
    """The line after the last `Answer:`, on the same line or below, in any case, without Markdown emphasis."""
    return _line_after_last(_ANSWER, text)


def gsm8k(text: str) -> str | None:
    """The line after the last `####`, as in GSM8K and the implicit-CoT data."""
    return _line_after_last(_HASHES, text)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}`, with balanced braces; None if they never close."""
    boxes = list(_BOX.finditer(text))
    end = closing_brace(text, boxes[-1].end()) if boxes else None
    return None if end is None else text[boxes[-1].end() : end].strip() or None


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one opened just before `start`."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1, None: 0}[brace[1]]
        if depth == 0:
            return brace.start()
    return None


def whole(text: str) -> str | None:
    """The whole text."""
    return text.strip() or None


EXTRACTORS: dict[str, Extractor] = {f.__name__: f for f in (answer_line, boxed, gsm8k, last_number, tool_calls, whole)}


def _line_after_last(pattern: re.Pattern[str], text: str) -> str | None:
    found = list(pattern.finditer(text))
    rest = text[found[-1].end() :].strip(_EMPHASIS) if found else ""
    return rest.splitlines()[0].strip(_EMPHASIS) or None if rest else None


def unwrap(reference: str) -> str:
    r"""The answer inside a reference: the content of its last `\boxed{}`, or the text after its last `####`.

    Raises:
        RowError: there is nothing in the box or after the marks, or the box never closes.
    """
    for name, mark, extract in ((r"\boxed{}", _BOX, boxed), ("####", _MARKED, gsm8k)):
        if mark.search(reference):
            if (answer := extract(reference)) is None:
                raise RowError(f"the reference answer has no answer in its {name}", reference[-60:])
            return answer
    return reference


def find_extractor(extractor: str | Sequence[str] | Extractor) -> Extractor:
    """The extractor of a config: a name, several names (the first to find something wins), or a function.

    Raises:
        UserError: unknown name, or no name at all; a user's function returns something other than text.
    """
    if callable(extractor):
        return functools.partial(_text_of, extractor)
    if not isinstance(extractor, str | Sequence):
        raise UserError(f"evaluation.extractor must be a name or a function, got {type(extractor).__name__}")
    names = [extractor] if isinstance(extractor, str) else list(extractor)
    if not names:
        raise UserError("extractor: name at least one")
    for name in names:
        if name not in EXTRACTORS:
            raise UserError(f"unknown extractor '{name}'{nearest(name, EXTRACTORS)}")
    functions = [EXTRACTORS[name] for name in names]
    return lambda text: next((answer for f in functions if (answer := f(text)) is not None), None)


def _text_of(extractor: Extractor, text: str) -> str | None:
    found: Any = extractor(text)
    if not isinstance(found, str | None):
        raise UserError(f"evaluation.extractor must return text or None, it returned {type(found).__name__}")
    return found


def split_completion(text: str, tags: Tags) -> tuple[str | None, str | None]:
    """Thought and answer part: before and after the last close tag.

    A text with an unclosed thought has no answer part; one without any tag is all answer.
    """
    before, close, after = text.rpartition(tags.close)
    _, opened, thought = (before if close else after).partition(tags.open)
    if close:
        return (thought if opened else before), after
    return (thought, None) if opened else (None, text)


def extract_answer(text: str, tags: Tags, extractor: str | Sequence[str] | Extractor = "answer_line") -> str | None:
    """The answer of a completion, searched for only after its thought; None if there is none."""
    _, answer_part = split_completion(text, tags)
    return None if answer_part is None else find_extractor(extractor)(answer_part)


def format_ok(text: str, tags: Tags, *, thinking: bool = True) -> bool:
    """Whether the text is a thought, then an answer: one open tag, one close tag in this order, text after them.

    thinking: if False, whether it is only an answer, without any tag
    """
    if not thinking:
        return bool(text.strip()) and tags.open not in text and tags.close not in text
    if text.count(tags.open) != 1 or text.count(tags.close) != 1:
        return False
    before, _, answer = text.partition(tags.close)
    return tags.open in before and bool(answer.strip())
