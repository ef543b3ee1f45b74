"""One colour per meaning, the same in pages, in the terminal and in figures."""

from __future__ import annotations

from typing import NamedTuple

from cot_components.roles import Role


class Colour(NamedTuple):
    """A hex colour for light and one for dark backgrounds; both have a contrast ratio of at least 4.5."""

    light: str
    dark: str


PAPER = Colour("#fdfdfc", "#15171b")
PANEL = Colour("#f4f4f1", "#1d2026")
INK = Colour("#1b1d21", "#e8e7e3")
MUTED = Colour("#62666e", "#9a9fa8")
LINE = Colour("#dcdcd6", "#33373f")

ROLE_COLOURS: dict[Role, Colour] = {
    Role.PROMPT: Colour("#62666e", "#9a9fa8"),
    Role.THINK_OPEN: Colour("#7443c4", "#b79bff"),
    Role.THOUGHT: Colour("#1c5fc4", "#7fb2ff"),
    Role.THINK_CLOSE: Colour("#7443c4", "#b79bff"),
    Role.ANSWER: Colour("#b04a06", "#ffa860"),
    Role.CALL: Colour("#0b7468", "#5fd0c1"),
    Role.OBSERVATION: Colour("#77650f", "#d0bd63"),
    Role.PAD: Colour("#62666e", "#9a9fa8"),
}

BLURRED = Colour("#3b77b3", "#6f97cf")
"""The colour of thoughts, faded."""

RUNS = (
    *(ROLE_COLOURS[role] for role in (Role.THOUGHT, Role.ANSWER, Role.CALL, Role.THINK_OPEN)),
    Colour("#a3195b", "#ff8fc0"),
    Colour("#77650f", "#d0bd63"),
    Colour("#3d4a5c", "#b5c1d3"),
    Colour("#4f8f00", "#9ed35f"),
)
"""Colours of runs compared in one figure, in order; repeated when there are more."""

RUN_COLOURS = tuple(colour.light for colour in RUNS)
