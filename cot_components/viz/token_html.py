"""Token view as HTML: what the loss sees is tinted, what it does not see is blurred.

Neighbouring tokens that look the same are one element, so that a trace of 36,000 characters stays a light page; the
script splits such an element into its tokens when the pointer reaches it. Without scripts (some notebook viewers remove
them) everything but the titles of single tokens is still there; without styles, ignored tokens are struck through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape

from cot_components.roles import Role
from cot_components.viz.page import fragment, page, role_class
from cot_components.viz.samples import Draw, Run, Sample, State, Totals
from cot_components.viz.token_page import SCRIPT, STYLE

BLOCK_TOKENS = 300
"""Tokens after which a block may end, at the next line break. Blocks outside the window are not laid out."""
STRIP_CELLS = 360

_ELEMENT = {
    State.SUPERVISED: ("span", "s"),
    State.CONTEXT: ("span", "x"),
    State.IGNORED: ("s", "b"),
    State.WEIGHTLESS: ("s", "w"),
    State.REMOVED: ("s", "r"),
}


def token_html(samples: Sequence[Sample], totals: Totals, *, title: str, whole_page: bool = True) -> str:
    """The page (or the notebook fragment) of `samples`; `totals` count all rows, shown or not."""
    head = f'<header><div class="title"><h1>{escape(title)}</h1>{_switch(samples)}</div>'
    head += f"{_totals(totals)}{_legend(samples)}</header>"
    body = head + _contents(samples, totals) + "".join(map(_section, samples))
    return page(title, STYLE, body, SCRIPT) if whole_page else fragment(STYLE, body, SCRIPT)


def _switch(samples: Sequence[Sample]) -> str:
    if not any(run.state is State.IGNORED for sample in samples for draw in sample.draws for run in draw.runs):
        return ""
    return '<label><input type="checkbox" class="sharpen"> sharpen</label>'


def _totals(totals: Totals) -> str:
    if totals.num_rows == 1:
        return ""  # the row itself says it
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(line)}</td></tr>" for name, line in totals.lines)
    return f'<p class="muted numbers">{totals.num_rows:,} rows</p><table class="totals numbers">{rows}</table>'


def _legend(samples: Sequence[Sample]) -> str:
    runs = [run for sample in samples for draw in sample.draws for run in draw.runs]
    roles = {run.role: "s" for run in runs}
    roles |= {run.role: "x" for run in runs if run.state is State.CONTEXT}
    states = {run.state for run in runs}
    weights = {run.weight for run in runs if run.state is State.SUPERVISED}
    keys = [f'<span class="{roles[role]} {role_class(role)}">{role.label}</span>' for role in Role if role in roles]
    examples = (
        (State.IGNORED, '<s class="b thought">blurred</s> in context, not in the loss'),
        (State.WEIGHTLESS, '<s class="w thought">struck</s> weight 0'),
        (State.REMOVED, '<s class="r thought">removed</s> not in the sequence'),
    )
    keys += [f"<span>{example}</span>" for state, example in examples if state in states]
    if len(weights) > 1:
        shades = "".join(f'<span class="s thought" style="--w:{w:g}">{w:g}</span>' for w in _few(sorted(weights)))
        keys.append(f"<span>weight {shades}</span>")
    return f'<p class="legend">{" ".join(keys)}</p>'


def _few(values: list[float], at_most: int = 4) -> list[float]:
    if len(values) <= at_most:
        return values
    return [values[round(i * (len(values) - 1) / (at_most - 1))] for i in range(at_most)]


def _contents(samples: Sequence[Sample], totals: Totals) -> str:
    if totals.num_rows == 1:
        return ""
    links = " ".join(f'<a href="#row-{sample.row_id}">{sample.row_id}</a>' for sample in samples)
    rest = f"of {totals.num_rows:,} rows" if len(samples) < totals.num_rows else ""
    return f'<nav class="muted numbers">row {links} {rest}</nav>'


def _section(sample: Sample) -> str:
    strips = "".join(
        f'<tr><th>{escape(draw.name)}</th><td class="strip">{_strip(draw)}</td>'
        f"<td>{escape(draw.counts.line())}</td></tr>"
        for draw in sample.draws
    )
    columns = "".join(_column(draw, alone=len(sample.draws) == 1) for draw in sample.draws)
    return (
        f'<section id="row-{sample.row_id}"><h2>row {sample.row_id}</h2><table class="strips numbers">{strips}</table>'
        f'<div class="draws">{columns}</div></section>'
    )


def _strip(draw: Draw) -> str:
    """The whole row as a bar: one cell per token, or per few tokens; its opacity is how much of it counts."""
    num_tokens = len(draw.roles)
    num_cells = min(num_tokens, STRIP_CELLS)
    cells: list[list] = []  # [start, width, role, opacity]
    for cell in range(num_cells):
        start, stop = cell * num_tokens // num_cells, (cell + 1) * num_tokens // num_cells
        strength = draw.strength[start:stop]
        opacity = round(max(0.12, min(1.0, float(strength.clip(0, 1).mean()))), 1) if (strength >= 0).any() else 0.0
        role = Role(int(draw.roles[start]))
        if cells and cells[-1][2:] == [role, opacity]:
            cells[-1][1] += 1
        else:
            cells.append([cell, 1, role, opacity])
    bars = "".join(
        f'<rect x="{start}" width="{width}" height="1" fill="var(--{role_class(role)})" opacity="{opacity:g}"/>'
        for start, width, role, opacity in cells
        if opacity
    )
    return f'<svg viewBox="0 0 {max(1, num_cells)} 1" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'


def _column(draw: Draw, *, alone: bool) -> str:
    name = "" if alone else f"<h3>{escape(draw.name)}</h3>"
    blocks = "".join(_block(runs) for runs in _blocks(draw.runs))
    return f'<div class="draw">{name}{blocks}<script type="application/json">{_token_data(draw)}</script></div>'


def _blocks(runs: Sequence[Run]) -> Iterator[list[tuple[Run, int]]]:
    """Runs with the index of their first piece, cut into blocks at line breaks."""
    block: list[tuple[Run, int]] = []
    tokens, piece = 0, 0
    for run in runs:
        block.append((run, piece))
        piece += len(run.pieces)
        tokens += len(run.ids)
        if tokens >= BLOCK_TOKENS and run.text.endswith("\n"):
            yield block
            block, tokens = [], 0
    if block:
        yield block


def _block(runs: list[tuple[Run, int]]) -> str:
    return f'<div class="block">{"".join(_run(run, piece) for run, piece in runs)}</div>'


def _run(run: Run, piece: int) -> str:
    element, state = _ELEMENT[run.state]
    weight = f' style="--w:{run.weight:g}"' if run.weight != 1 and run.state is State.SUPERVISED else ""
    return (
        f'<{element} class="{state} {role_class(run.role)}" data-p={piece}{weight} title="{_title(run)}">'
        f"{escape(run.text)}</{element}>"
    )


def _title(run: Run) -> str:
    """`id 12, thought 17, label -100, weight 1`; for several tokens their ids and their range."""
    several = len(run.ids) > 1
    ids = " ".join(str(i) for i in run.ids[:6]) + (" ..." if len(run.ids) > 6 else "")
    first, last = run.counters[0], run.counters[-1]
    place = "" if first < 0 else f" {first} to {last}" if several else f" {first}"
    label = "itself" if run.state is State.SUPERVISED and several else str(run.labels[0])
    return f"{'ids' if several else 'id'} {ids}, {run.role.label}{place}, label {label}, weight {run.weight:g}"


def _token_data(draw: Draw) -> str:
    """What the script needs to split a run: of each piece the length in UTF-16 units, the ids and the counter."""
    lengths: list[int] = []
    ids: list[int | list[int]] = []
    counters: list[int] = []
    for run in draw.runs:
        at = 0
        for piece in run.pieces:
            token_ids = run.ids[at : at + piece.num_tokens]
            lengths.append(len(piece.text.encode("utf-16-le")) // 2)
            ids.append(token_ids[0] if len(token_ids) == 1 else list(token_ids))
            counters.append(run.counters[at])
            at += piece.num_tokens
    return json.dumps([lengths, ids, counters], separators=(",", ":"))
