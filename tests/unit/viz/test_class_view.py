"""Classes in the terminal."""

import io

import numpy as np
from rich.console import Console

from cot_components.viz.class_view import STYLES, WRONG, classes_text


def decode(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def test_colours_and_brackets_say_the_same() -> None:
    ids, found, truth = list(b"pay 12\n"), np.array([1, 0, 0, 0, 1, 1, 0]), np.array([1, 0, 0, 0, 1, 0, 1])
    assert classes_text(ids, found, decode, truth=truth, coloured=False).plain == "[p]ay [1]{2}{\u21b5\n}"
    assert classes_text(ids, found, decode, coloured=False).plain == "[p]ay [12]\u21b5\n"
    coloured = classes_text(ids, found, decode, truth=truth)
    spans = {coloured.plain[span.start : span.end]: span.style for span in coloured.spans}
    assert spans["p"] == STYLES[1] and spans["ay "] == STYLES[0] and spans["2"] == WRONG


def test_characters_of_several_tokens_and_hostile_text() -> None:
    text = classes_text([*"\u00e9".encode(), 27, *b"[bold]"], np.array([0, 1, *[0] * 7]), decode, coloured=False)
    out = io.StringIO()
    Console(file=out, force_terminal=False).print(text)
    assert text.plain == "[\u00e9]\u241b[bold]" == out.getvalue().rstrip("\n")
