"""One of every way in which the tags of a completion, or a line of a data file, can be odd, and what comes of it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from cot_components.data.bad_rows import TraceError
from cot_components.data.read.traces import read_traces

HOSTILE = (
    "e\u0301 \u2028 \u0085 \u200d\U0001f469\u200d\U0001f52c \u05e9\u05dc\u05d5\u05dd \x00 \r\n"
    " \u00df \ufb01 <b>&amp;</b> \\n \U0010ffff"
)
"""Combining mark, line separators, joined emoji, right to left, NUL, CRLF, letters that change length when folded."""


class TagShape(NamedTuple):
    """A completion and what it means, ordinarily and after an opening by the template: labelled texts or a reason."""

    name: str
    text: str
    ordinary: tuple[tuple[str, str], ...] | str
    opened: tuple[tuple[str, str], ...] | str = "<think> again"


OPEN, CLOSE = "<think>", "</think>"
TWICE_O, TWICE_C = f"{OPEN} more than once", f"{CLOSE} more than once"
ALMOST_O, ALMOST_C = f"almost {OPEN}", f"almost {CLOSE}"
UNCLOSED, UNOPENED = f"{OPEN} is never closed", f"{CLOSE} without {OPEN}"
EARLY, REVERSED, NO_ANSWER = f"text before {OPEN}", f"{CLOSE} before {OPEN}", f"no answer after {CLOSE}"
EMPTY = "the response is empty"


def labelled(thought: str, answer: str) -> tuple[tuple[str, str], ...]:
    return ("think_open", OPEN), ("thought", thought), ("think_close", CLOSE), ("answer", answer)


TAG_SHAPES = (
    TagShape("ordinary", f"{OPEN}\nt\n{CLOSE}\n\na", labelled("\nt\n", "\n\na")),
    TagShape("no tag", "just a", (("answer", "just a"),), UNCLOSED),
    TagShape("empty", "", EMPTY, UNCLOSED),
    TagShape("blank", " \n", EMPTY, UNCLOSED),
    TagShape("only open", f"{OPEN}t", UNCLOSED),
    TagShape("only close", f"t{CLOSE}a", UNOPENED, (("thought", "t"), ("think_close", CLOSE), ("answer", "a"))),
    TagShape("close cut off", f"{OPEN}t</thin", UNCLOSED),
    TagShape("nested", f"{OPEN}t{OPEN}u{CLOSE}v{CLOSE}a", TWICE_O),
    TagShape("repeated pair", f"{OPEN}t{CLOSE}a{OPEN}u{CLOSE}b", TWICE_O),
    TagShape("open twice", f"{OPEN}{OPEN}t{CLOSE}a", TWICE_O),
    TagShape("close twice", f"{OPEN}t{CLOSE}{CLOSE}a", TWICE_C),
    TagShape("reversed", f"{CLOSE}t{OPEN}a", REVERSED),
    TagShape("open quoted in thought", f"{OPEN}I write {OPEN} first{CLOSE}a", TWICE_O),
    TagShape("close quoted in thought", f"{OPEN}then `{CLOSE}` ends it{CLOSE}a", TWICE_C),
    TagShape("pair quoted in answer", f"Write `{OPEN}x{CLOSE}` around it", EARLY),
    TagShape("open quoted in answer", f"{OPEN}t{CLOSE}Use {OPEN}.", TWICE_O),
    TagShape("close quoted in answer", f"{OPEN}t{CLOSE}Use {CLOSE}.", TWICE_C),
    TagShape("close quoted when opened", f"t{CLOSE}Use {CLOSE}.", UNOPENED, TWICE_C),
    TagShape("code fence", f"{OPEN}t{CLOSE}a\n```\n{OPEN}u{CLOSE}\n```\n", TWICE_O),
    TagShape("text before", f"Sure! {OPEN}t{CLOSE}a", EARLY),
    TagShape("blank before", f"\n {OPEN}t{CLOSE}a", (("answer", "\n "), *labelled("t", "a"))),
    TagShape("upper case", "<THINK>t</THINK>a", ALMOST_O, ALMOST_O),
    TagShape("upper case inside", f"{OPEN}t <Think> u{CLOSE}a", ALMOST_O, ALMOST_O),
    TagShape("upper case close", f"{OPEN}t</Think>u{CLOSE}a", ALMOST_C, ALMOST_C),
    TagShape("spaces", "< think >t< / think >a", ALMOST_O, ALMOST_O),
    TagShape("space in close", f"{OPEN}t</think >a", ALMOST_C, ALMOST_C),
    TagShape("full-width", "\uff1cthink\uff1et\uff1c/think\uff1ea", ALMOST_O, ALMOST_O),
    TagShape("bold letters", "<\U0001d42d\U0001d421\U0001d422\U0001d427\U0001d424>t", ALMOST_O, ALMOST_O),
    TagShape("angle brackets", "\u27e8think\u27e9t", ALMOST_O, ALMOST_O),
    TagShape("zero-width", "<thi\u200bnk>t", ALMOST_O, ALMOST_O),
    TagShape("variation selector", "<think\ufe0f>t", ALMOST_O, ALMOST_O),
    TagShape("HTML escape", "&lt;think&gt;t&lt;/think&gt;a", ALMOST_O, ALMOST_O),
    TagShape("backslash", f"{OPEN}t<\\/think>a", ALMOST_C, ALMOST_C),
    TagShape("struck out", f"{OPEN}t</think\u226fa", ALMOST_C, ALMOST_C),
    TagShape("another family", "<Thought>t</Thought>a", "starts with <thought>", UNCLOSED),
    TagShape("other tags", "Call <tool_call>{}</tool_call>", (("answer", "Call <tool_call>{}</tool_call>"),), UNCLOSED),
    TagShape("empty thought", f"{OPEN}{CLOSE}a", (("think_open", OPEN), ("think_close", CLOSE), ("answer", "a"))),
    TagShape("empty thought, opened", f"{CLOSE}a", UNOPENED, (("think_close", CLOSE), ("answer", "a"))),
    TagShape("blank thought", f"{OPEN}\n\n{CLOSE}\n\na", labelled("\n\n", "\n\na")),
    TagShape("empty answer", f"{OPEN}t{CLOSE}", NO_ANSWER),
    TagShape("blank answer", f"{OPEN}t{CLOSE}\n \n", NO_ANSWER),
    TagShape("empty answer, opened", f"t{CLOSE}", UNOPENED, NO_ANSWER),
    TagShape(
        "hostile text",
        f"{OPEN}{HOSTILE}{CLOSE}{HOSTILE}",
        labelled(HOSTILE, HOSTILE),
    ),
)


class FaultyLine(NamedTuple):
    """A line of a JSONL file in the `instruction` format, and why it is refused (None: it is not)."""

    name: str
    line: bytes
    reason: str | None


GOOD = {"instruction": "q", "response": "a"}


def write_lines(path: Path, *rows: object) -> Path:
    """A JSONL file of these rows; bytes stand there as they are."""
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def refuse_to_open(*args: Any, **settings: Any) -> NoReturn:
    """What `open` does with a file that nobody may read; the tests may run as root, who may read them all."""
    raise PermissionError(errno.EACCES, "Permission denied")


def fault(*args, **settings) -> str:
    """What `read_traces` says of a source that it refuses."""
    with pytest.raises(TraceError) as caught:
        list(read_traces(*args, **settings))
    return str(caught.value)


def _row(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


FAULTY_LINES = (
    FaultyLine("ordinary", _row(), None),
    FaultyLine(
        "line separators", json.dumps({"instruction": "q", "response": HOSTILE}, ensure_ascii=False).encode(), None
    ),
    FaultyLine("the word None", _row(response="None"), None),
    FaultyLine("carriage return at the end", _row() + b"\r", None),
    FaultyLine("a column more", _row(score=1.5, extra=None), None),
    FaultyLine("half a line", _row()[:20], "not JSON"),
    FaultyLine("two objects", _row() + _row(), "not JSON"),
    FaultyLine("a UTF-8 mark inside the file", b"\xef\xbb\xbf" + _row(), "not JSON"),
    FaultyLine("NUL bytes", b"\0" * 12, "not JSON"),
    FaultyLine("bad UTF-8", _row().replace(b"q", b"\xff"), "not UTF-8"),
    FaultyLine("surrogate as UTF-8", _row().replace(b"q", b"\xed\xa0\x80"), "not UTF-8"),
    FaultyLine("lone surrogate", _row(response="a\ud800"), "'response' holds a lone surrogate"),
    FaultyLine("NaN", _row(score=float("nan")), "NaN is not JSON"),
    FaultyLine("infinity", _row(score=float("-inf")), "-Infinity is not JSON"),
    FaultyLine("endless integer", _row()[:-1] + b', "n": ' + b"9" * 5000 + b"}", "JSON too large or too deeply nested"),
    FaultyLine("endless nesting", b"[" * 100_000, "JSON too large or too deeply nested"),
    FaultyLine("a list", b'["q", "a"]', "a row is not an object"),
    FaultyLine("a string", b'"q"', "a row is not an object"),
    FaultyLine("null", b"null", "a row is not an object"),
    FaultyLine("missing key", b'{"instruction": "q"}', "'response' is missing"),
    FaultyLine("null value", _row(response=None), "'response' is null"),
    FaultyLine("null prompt", _row(instruction=None), "'instruction' is null"),
    FaultyLine("number", _row(response=4), "'response' is not text"),
    FaultyLine("list for text", _row(response=["a"]), "'response' is not text"),
    FaultyLine("empty prompt", _row(instruction=""), "the prompt is empty"),
    FaultyLine("blank prompt", _row(instruction=" \n\t"), "the prompt is empty"),
    FaultyLine("empty response", _row(response=""), "the response is empty"),
    FaultyLine("blank response", _row(response="\n"), "the response is empty"),
)
