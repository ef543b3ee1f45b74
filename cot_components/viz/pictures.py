"""Panels as pictures that follow the light or dark mode of their page, each with a description in words."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from cot_components.viz.curves import draw_panels, drawing
from cot_components.viz.page import COLOURS
from cot_components.viz.panels import Line, Panel
from cot_components.viz.theme import RUNS

WIDTH = 3.9
"""Of a picture, in inches: three fill a wide window, one fills a phone's."""

RUN_COLOURS = {f"run-{number}": colour for number, colour in enumerate(RUNS)}
"""CSS variables of a page about several runs."""


class Picture(NamedTuple):
    """An SVG, and what it shows in words."""

    svg: Markup
    words: str


def pictures(panels: Sequence[Panel], names: Sequence[str] = ()) -> list[Picture]:
    """A picture of each panel.

    Args:
        panels: what to draw.
        names: of the runs, for lines that have no labels of their own.
    """
    of_colour = dict(zip((colour.light for colour in RUNS), names, strict=False))
    return [Picture(_svg(panel), _words(panel, of_colour)) for panel in panels]


def _svg(panel: Panel) -> Markup:
    drawn = io.StringIO()
    figure = draw_panels([panel], [], width=WIDTH)
    with drawing():
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    # Colours of the theme become CSS variables of the page, so that the figure follows its light or dark mode.
    for variable, colour in (COLOURS | RUN_COLOURS).items():
        svg = svg.replace(colour.light, f"var(--{variable})")
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # of groups, repeated in every picture
    return Markup(svg[svg.index("<svg") :])


def _words(panel: Panel, of_colour: dict[str, str]) -> str:
    """`Answers by step. correct: 0.0 % at 0, 73.3 % at 400.`"""
    said = [_ends(line, panel, line.label or of_colour.get(line.colour, "")) for line in panel.lines]
    across = panel.across.splitlines()[0]
    return " ".join([f"{panel.title} by {across}.", *dict.fromkeys(said)])


def _ends(line: Line, panel: Panel, name: str) -> str:
    finite = np.flatnonzero(np.isfinite(line.trend))
    ends = [finite[0]] if len(finite) == 1 else [finite[0], finite[-1]]
    values = [f"{_value(line.trend[i], panel)} at {line.steps[i]:,g}" for i in ends]
    return f"{f'{name}: ' if name else ''}{', '.join(values)}."


def _value(value: float, panel: Panel) -> str:
    return f"{100 * value:.1f} %" if panel.kind == "share" else f"{value:,.3g}"
