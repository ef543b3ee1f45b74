"""Text that is shown and cannot act."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cot_components.viz.visible import visible


@given(st.text(st.characters(codec=None)))
def test_visible_text_can_be_written_and_holds_nothing_that_acts(text):
    shown = visible(text)
    shown.encode()
    acting = [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t"]
    assert not acting
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x1b\x9b")
    assert shown.count("\n") == text.count("\n") == shown.replace("\u21b5\n", "").count("\n") + shown.count("\u21b5\n")


def test_visible_keeps_plain_text_and_marks_line_ends():
    assert visible("two plus\n\ttwo") == "two plus\u21b5\n\ttwo"
    assert visible("\x1b[31m") == "\u241b[31m"
