"""Makes text from data safe to display: control characters become visible and have no effect."""

from __future__ import annotations

import unicodedata

from cot_components.data.text.pieces import REPLACEMENT


def visible(text: str) -> str:
    """The text with every control character replaced by a visible symbol.

    Data may contain terminal escapes, bidirectional overrides or lone surrogates. A return sign is put before every
    newline, to show whether the newline is blurred.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(c) for c in text)


def one_line(text: object) -> str:
    """The text on one line, without characters that a terminal would act on."""
    return visible(str(text)).replace("\u21b5\n", "\u21b5").replace("\t", " ")


def _visible_character(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if character == "\n":
        return "\u21b5\n"
    if character == "\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if category == "Cs":
        return REPLACEMENT
    if category in ("Cc", "Zl", "Zp") or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:
        return f"\u27e8{code:04X}\u27e9"
    return character
