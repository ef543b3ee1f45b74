"""Token view in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.rule import Rule
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from cot_components.data.text.pieces import Piece
from cot_components.roles import Role
from cot_components.viz.token_samples import Draw, Run, Sample, State, Totals

STRIP_CELLS = 60
_GAP = 3
_SHADES = " \u2591\u2592\u2593\u2588"

ROLE_STYLES: dict[Role, str] = {
    Role.PROMPT: "bright_black",
    Role.THINK_OPEN: "magenta",
    Role.THOUGHT: "blue",
    Role.THINK_CLOSE: "magenta",
    Role.ANSWER: "yellow",
    Role.CALL: "cyan",
    Role.OBSERVATION: "bright_black",
    Role.PAD: "bright_black",
}
"""Named colours, because a terminal's own palette is readable on its own background."""

_MARKS = {
    State.IGNORED: ("[-", "-]"),
    State.WEIGHTLESS: ("[0 ", " 0]"),
    State.REPLACED: ("[~", "~]"),
    State.REMOVED: ("[x ", " x]"),
}
"""Without colours, these brackets replace the styles."""


class TokenTerminal:
    """A rich renderable: roles as colours, ignored tokens dim and struck through, weights over 1 bold, under 1 dim.

    Draws of a row are side by side if the terminal is wide enough for their strips.
    """

    def __init__(self, samples: Sequence[Sample], totals: Totals, *, title: str) -> None:
        self.samples, self.totals, self.title = samples, totals, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        coloured = console.color_system is not None and not console.no_color
        yield Text(self.title, style="bold")
        if self.totals.num_rows > 1:
            yield Text(f"{self.totals.num_rows:,} rows, {len(self.samples):,} shown")
            for name, line in self.totals.lines:
                yield Text.assemble((f"{name}  ", "bold"), line)
        yield _legend(self.samples, coloured)
        for sample in self.samples:
            panels = [_draw(sample, draw, coloured) for draw in sample.draws]
            if len(panels) * (STRIP_CELLS + _GAP) <= options.max_width + _GAP:
                side_by_side = Table.grid(
                    *(Column(ratio=1) for _ in panels), padding=(0, _GAP), pad_edge=False, expand=True
                )
                side_by_side.add_row(*panels)
                yield side_by_side
            else:
                yield from panels


def _draw(sample: Sample, draw: Draw, coloured: bool) -> Group:
    return Group(
        Text(),
        Rule(Text(f"row {sample.row_id}, {draw.name}"), align="left", style="bright_black"),
        _strip(draw),
        Text(draw.counts.line(), style="bold"),
        Text(),
        Text.assemble(*(_run(run, coloured) for run in draw.runs), overflow="fold"),
    )


def _style(run: Run) -> Style:
    base = Style.parse(ROLE_STYLES[run.role])
    if run.state is State.CONTEXT:
        return base
    if run.state is State.REPLACED:
        return base + Style(reverse=True)
    if run.state is State.SUPERVISED:
        return base + Style(bold=run.weight > 1 or None, dim=run.weight < 1 or None)
    return base + Style(dim=True, strike=True)


def _run(run: Run, coloured: bool) -> Text:
    if coloured or run.state not in _MARKS:
        return Text(run.text, style=_style(run))
    opening, closing = _MARKS[run.state]
    return Text(opening + run.text + closing)


def _strip(draw: Draw) -> Text:
    """The whole row as a bar of at most `STRIP_CELLS` cells; denser where more of it counts."""
    num_tokens = len(draw.roles)
    num_cells = min(num_tokens, STRIP_CELLS)
    strip = Text()
    for cell in range(num_cells):
        start, stop = cell * num_tokens // num_cells, (cell + 1) * num_tokens // num_cells
        share = float(draw.strength[start:stop].clip(0, 1).mean())
        shade = _SHADES[1 + round(share * 3)] if (draw.strength[start:stop] >= 0).any() else _SHADES[0]
        strip.append(shade, ROLE_STYLES[Role(int(draw.roles[start]))])
    return strip


def _legend(samples: Sequence[Sample], coloured: bool) -> Text:
    runs = [run for sample in samples for draw in sample.draws for run in draw.runs]
    roles, states = {run.role for run in runs}, {run.state for run in runs}
    keys = [Text(role.label, style=ROLE_STYLES[role]) for role in Role if role in roles]
    words = {State.IGNORED: "blurred", State.WEIGHTLESS: "weight 0"}
    words |= {State.REPLACED: "replaced", State.REMOVED: "removed"}
    for state, word in words.items():
        if state in states:
            keys.append(_run(Run(Role.THOUGHT, state, 1.0, (Piece(word, 1),), (), (), ()), coloured))
    return Text("  ").join(keys)
