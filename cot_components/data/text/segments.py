"""Where the thought of an assistant turn begins and ends. If that is ambiguous, the turn is refused; nothing is
guessed.

`O` and `C` are the opening and closing tag, exactly as set; `x` is any text, `a` is more than blanks.

| completion               | ordinary                              | `opened=True`: the template wrote `O` already |
|--------------------------|---------------------------------------|-----------------------------------------------|
| `O x C a`                | think_open, thought, think_close,     | refused: opened twice                         |
|                          | answer                                |                                               |
| `x C a`                  | refused: closed but never opened      | thought, think_close, answer                  |
| `a`, no tag              | answer: a row without a thought       | refused: never closed                         |
| blanks `O x C a`         | the blanks are answer, then as above  | refused: opened twice                         |
| `O x` (cut off)          | refused: never closed                 | refused: opened twice                         |
| `a O x C a`              | refused: text before the thought      | refused: opened twice                         |
| `C x O x` (reversed)     | refused: closed before it is opened   | refused: opened twice                         |
| a second `O` or `C`      | refused                               | refused                                       |
| thought empty or blank   | kept as it is                         | kept as it is                                 |
| answer empty or blank    | refused                               | refused                                       |
| almost `O` or `C`        | refused                               | refused                                       |
| begins as another family | refused: the tags are set wrongly     | as above                                      |
| of models writes `O`     |                                       |                                               |

A second tag may be nested, repeated, or quoted in the thought, the answer or a code fence: the text alone cannot tell.
"Almost" a tag means different only in case, blanks, invisible characters, width or another compatibility form, brackets
of similar shape, HTML escapes or backslashes. Look-alike letters of other alphabets are not detected. Other tags
(`<tool_call>`) are text, and so is every tag in a prompt: prompts are not read here. Segments are never empty, and
joined they give the completion.
"""

from __future__ import annotations

import html
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.errors import UserError
from cot_components.roles import Role

KNOWN_OPENINGS = (
    "<think>",
    "<thinking>",
    "<thought>",
    "<reasoning>",
    "<|begin_of_thought|>",
    "<|start_thinking|>",
    "[think]",
)
"""Canonical opening tags of published models and data sets, to detect that the configured tags are not the data's."""

_BLANK = [chr(i) for i in range(0x3001) if chr(i).isspace()]
_INVISIBLE_RANGES = (
    *((0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
    *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
"""Control characters, and what Unicode lists as Default_Ignorable_Code_Point; both ends included."""
_INVISIBLE = [chr(i) for first, last in _INVISIBLE_RANGES for i in range(first, last + 1)]
_SAME = str.maketrans(
    {
        **dict.fromkeys([*_BLANK, *_INVISIBLE, "\\"], ""),
        **dict.fromkeys("\u2039\u2329\u276e\u27e8\u3008\u02c2\u1438", "<"),
        **dict.fromkeys("\u203a\u232a\u276f\u27e9\u3009\u02c3\u1433", ">"),
        **dict.fromkeys("\u2044\u2215\u29f8", "/"),
    }
)


class Segment(NamedTuple):
    """A stretch of a completion with one role."""

    role: Role
    text: str


@dataclass(frozen=True)
class Tags:
    """The tags around a thought: `<think>`, `<Thought>`, `<|begin_of_thought|>` and their closing counterparts.

    Raises UserError for tags that cannot be told apart, from each other or from the text around them.
    """

    open: str = "<think>"
    close: str = "</think>"

    def __post_init__(self) -> None:
        for name, tag in (("open", self.open), ("close", self.close)):
            if not isinstance(tag, str) or not tag or tag != tag.strip():
                raise UserError(f"tags.{name} must be text without blanks around it, got {tag!r}")
        ours, theirs = canonical(self.open), canonical(self.close)
        if ours in theirs or theirs in ours:
            raise UserError(f"tags {self.open!r} and {self.close!r} cannot be told apart")


def canonical(text: str) -> str:
    """The text in a normal form in which all near misses of a tag are equal to it."""
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    return text.translate(_SAME).casefold()


def segment_text(text: str, tags: Tags, *, opened: bool = False) -> list[Segment]:
    """Segments of the completion of one assistant turn; the module's table gives the outcome for every shape.

    opened: the prompt already ends in the opening tag, so the text starts inside the thought

    Raises RowError for every ambiguous shape.
    """
    _refuse_almost_tags(text, tags)
    num_open, num_close = _count(text, tags.open), _count(text, tags.close)
    if not (opened or num_open or num_close):
        return _without_thought(text)
    if num_open != (0 if opened else 1):
        raise RowError(_opening_fault(tags, num_open, opened=opened))
    if num_close != 1:
        raise RowError(f"{tags.open} is never closed" if num_close == 0 else f"{tags.close} more than once")

    before, opening, rest = ("", "", text) if opened else text.partition(tags.open)
    thought, closing, answer = rest.partition(tags.close)
    if not closing:
        raise RowError(f"{tags.close} before {tags.open}")
    if before.strip():
        raise RowError(f"text before {tags.open}")
    if not answer.strip():
        raise RowError(f"no answer after {tags.close}")
    parts = (
        Segment(Role.ANSWER, before),
        Segment(Role.THINK_OPEN, opening),
        Segment(Role.THOUGHT, thought),
        Segment(Role.THINK_CLOSE, closing),
        Segment(Role.ANSWER, answer),
    )
    return [segment for segment in parts if segment.text]


def assistant_text(message: Message, tags: Tags) -> str:
    """The completion of a message: its content, after `open LF thought LF close LF LF` if it has a thought.

    Nothing is stripped: thought and content are unchanged. An empty thought still gets its tags.
    """
    if message.thought is None:
        return message.content
    return f"{tags.open}\n{message.thought}\n{tags.close}\n\n{message.content}"


def _refuse_almost_tags(text: str, tags: Tags) -> None:
    folded = canonical(text)
    for tag in (tags.open, tags.close):
        if _count(folded, canonical(tag)) != _count(text, tag):
            raise RowError(f"contains something that is almost {tag}")


def _count(text: str, tag: str) -> int:
    """0, 1, or 2 for more; occurrences that overlap count, as `####` in `#####` does."""
    first = text.find(tag)
    return 0 if first < 0 else 1 + (text.rfind(tag) > first)


def _without_thought(text: str) -> list[Segment]:
    if not text.strip():
        raise RowError("the response is empty")
    start = canonical(text.lstrip()[:100])
    for opening in KNOWN_OPENINGS:
        if start.startswith(opening):
            raise RowError(f"starts with {opening}, which is not the tag that is set")
    return [Segment(Role.ANSWER, text)]


def _opening_fault(tags: Tags, num_open: int, *, opened: bool) -> str:
    if opened:
        return f"{tags.open} again, after the template opened the thought"
    return f"{tags.close} without {tags.open}" if num_open == 0 else f"{tags.open} more than once"
