"""The formats in which generated tool-use dialogues write a call.

A format turns a phrase and a call into pieces of text; a piece that depends on the request lists the alternatives to
it. `drawn` is many formats: its keys, punctuation and order are drawn again for every dialogue, so that a model trained
on many of them can copy from a request into a format it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from cot_components.data.read.calls import REACT, TAGGED, Call

PEOPLE = ("Ann", "Ben", "Cal", "Dan", "Eva", "Flo", "Gus", "Hal", "Ida", "Jon")
REQUESTS = {
    "pay": ("Pay {who} {num}.", "{who} gets {num} coins."),
    "book": ("Book {num} for {who}.", "{who} wants room {num}."),
    "send": ("Send {num} to {who}.", "{who} needs file {num}."),
    "move": ("Move {who} to {num}.", "{who} goes to seat {num}."),
}
NUMBERS = range(100, 1000)
NUMBER_TEXTS = tuple(map(str, NUMBERS))
"""Shared by all dialogues."""


class Piece(NamedTuple):
    """Part of an output and the alternatives to it; boilerplate if there are none."""

    text: str
    choices: tuple[str, ...] = ()


def _slots(call: Call) -> tuple[Piece, Piece, Piece]:
    """Tool, person and number."""
    who, num = str(call.arguments["who"]), str(call.arguments["num"])
    return Piece(call.name, tuple(REQUESTS)), Piece(who, PEOPLE), Piece(num, NUMBER_TEXTS)


def _tagged(phrase: str, call: Call) -> tuple[Piece, ...]:
    tool, who, num = _slots(call)
    head = Piece(f'{phrase}.\n<tool_call>\n{{"name": "')
    return head, tool, Piece('", "arguments": {"who": "'), who, Piece('", "num": '), num, Piece("}}\n</tool_call>")


def _react(phrase: str, call: Call) -> tuple[Piece, ...]:
    tool, who, num = _slots(call)
    head = Piece(f"Thought: {phrase}.\nAction: ")
    return head, tool, Piece('\nAction Input: {"num": '), num, Piece(', "who": "'), who, Piece('"}')


def _python(phrase: str, call: Call) -> tuple[Piece, ...]:
    tool, who, num = _slots(call)
    return Piece(f"{phrase}:\n"), tool, Piece("(num="), num, Piece(', who="'), who, Piece('")')


def _json(phrase: str, call: Call) -> tuple[Piece, ...]:
    tool, who, num = _slots(call)
    head = Piece(f'{phrase}\n{{"args": {{"who": "')
    return head, who, Piece('", "num": '), num, Piece('}, "name": "'), tool, Piece('"}')


def _list(phrase: str, call: Call) -> tuple[Piece, ...]:
    tool, who, num = _slots(call)
    head = Piece(f'{phrase}\n[{{"name": "')
    return head, tool, Piece('", "parameters": {"num": '), num, Piece(', "who": "'), who, Piece('"}}]')


def _fenced(phrase: str, call: Call) -> tuple[Piece, ...]:
    tool, who, num = _slots(call)
    head = Piece(f'{phrase}:\n```json\n{{"args": {{"num": ')
    return head, num, Piece(', "who": "'), who, Piece('"}, "name": "'), tool, Piece('"}\n```')


FORMATS: dict[str, Callable[[str, Call], tuple[Piece, ...]]] = {
    "tagged": _tagged,
    "react": _react,
    "python": _python,
    "json": _json,
    "list": _list,
    "fenced": _fenced,
}
STYLES = {"tagged": TAGGED, "react": REACT}
"""`Message.calls` by format; to the encoder, calls in the other formats are plain answers."""

DRAWN = "drawn"
_KEYS = (
    ("name", "tool", "do", "call", "fn"),
    ("who", "person", "for", "to", "user"),
    ("num", "n", "count", "id", "no"),
)
_OPENINGS = ("{", "[", "(", "<", "{{", "[{", "", "- ", "* ", "```")
_ASSIGNMENTS = (": ", "=", ":", " ", " = ", " -> ", "] ")
_SEPARATORS = (", ", "; ", " ", "\n", " | ", ",", "}, ", ") ")
_QUOTES = ("", '"', "'", "`")
_ENDS = ("}", "]", ")", ">", "}}", "", ".", "\n")


def _drawn(phrase: str, call: Call, *, random: np.random.Generator) -> tuple[Piece, ...]:
    """A new layout for every call; the phrase is not used, so no format's words are revealed.

    A number follows a blank, as in the requests, so that its first token is the same in both. A word repeated up to 11
    times comes first, so that the call can start at any place.
    """

    def one(options: Sequence[str]) -> str:
        return options[int(random.integers(len(options)))]

    word = "".join(map(chr, random.integers(ord("a"), ord("z") + 1, int(random.integers(2, 5)))))
    times = int(random.integers(1, 12)) if random.random() < 0.25 else int(random.integers(2))
    text = " ".join([word] * times) + one(("\n", ": ", " ", "")) + one(_OPENINGS)
    assign, separate, quote_key, quote = one(_ASSIGNMENTS), one(_SEPARATORS), one(("", "", '"')), one(_QUOTES)
    pieces = []
    for number, place in enumerate(random.permutation(len(_KEYS)).tolist()):
        slot = _slots(call)[place]
        is_number = slot.text.isdigit()
        around = "" if is_number else quote
        gap = " " if is_number and not assign.endswith(" ") else ""
        text += f"{separate if number else ''}{quote_key}{one(_KEYS[place])}{quote_key}{assign}{gap}{around}"
        pieces += [Piece(text), slot]
        text = around
    return (*pieces, Piece(text + one(_ENDS)))


def format_writer(name: str, random: np.random.Generator) -> Callable[[str, Call], tuple[Piece, ...]]:
    """The writer of a phrase and a call in the named format; only `drawn` uses `random`."""
    return partial(_drawn, random=random) if name == DRAWN else FORMATS[name]
