"""Token view as HTML: what the loss sees is tinted, what it does not see is blurred.

`pages/tokens.jinja` is the page; this module prepares its contents. Neighbouring tokens that look the same share one
element, which keeps the page of a trace of 36,000 characters small; the script splits an element into its tokens when
the pointer reaches it. Without scripts (some notebook viewers strip them) only the titles of single tokens are missing;
without styles, ignored tokens are struck through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cot_components.roles import Role
from cot_components.viz.page import render
from cot_components.viz.token_samples import Draw, Run, Sample, State, Totals

BLOCK_TOKENS = 300
"""Tokens after which a block may end, at the next line break. Blocks outside the window are not laid out."""
STRIP_CELLS = 360


def token_html(samples: Sequence[Sample], totals: Totals, *, title: str, whole_page: bool = True) -> str:
    """The page (or the notebook fragment) of `samples`; `totals` count all rows, shown or not."""
    return render(
        "tokens.jinja",
        title=title,
        whole_page=whole_page,
        samples=samples,
        totals=totals,
        roles=list(Role),
        legend=_legend(samples),
        num_cells=_num_cells,
        strip_of=_strip,
        blocks_of=_blocks,
        title_of=_title,
        token_data=_token_data,
    )


class Legend(NamedTuple):
    """The colours and marks that occur.

    roles: each with whether it is context somewhere
    states: values of `State`
    weights: of supervised tokens, in order; a selection if there are many
    """

    roles: list[tuple[Role, bool]]
    states: set[str]
    weights: list[float]


def _legend(samples: Sequence[Sample]) -> Legend:
    runs = [run for sample in samples for draw in sample.draws for run in draw.runs]
    roles = {run.role for run in runs}
    context = {run.role for run in runs if run.state is State.CONTEXT}
    weights = sorted({run.weight for run in runs if run.state is State.SUPERVISED})
    return Legend(
        [(role, role in context) for role in Role if role in roles], {run.state.value for run in runs}, _few(weights)
    )


def _few(values: list[float], at_most: int = 4) -> list[float]:
    if len(values) <= at_most:
        return values
    return [values[round(i * (len(values) - 1) / (at_most - 1))] for i in range(at_most)]


@dataclass
class Cell:
    """Neighbouring cells of a strip that look the same."""

    start: int
    width: int
    role: Role
    opacity: float


def _num_cells(draw: Draw) -> int:
    return max(1, min(len(draw.roles), STRIP_CELLS))


def _strip(draw: Draw) -> list[Cell]:
    """The whole row as cells of one or a few tokens, by how much of each counts; invisible cells are left out."""
    num_tokens = len(draw.roles)
    num_cells = min(num_tokens, STRIP_CELLS)
    cells: list[Cell] = []
    for i in range(num_cells):
        start, stop = i * num_tokens // num_cells, (i + 1) * num_tokens // num_cells
        strength = draw.strength[start:stop]
        opacity = round(max(0.12, min(1.0, float(strength.clip(0, 1).mean()))), 1) if (strength >= 0).any() else 0.0
        role = Role(int(draw.roles[start]))
        if cells and (cells[-1].role, cells[-1].opacity) == (role, opacity):
            cells[-1].width += 1
        else:
            cells.append(Cell(i, 1, role, opacity))
    return [cell for cell in cells if cell.opacity]


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


def _title(run: Run) -> str:
    """`id 12, thought 17, label -100, weight 1`; for several tokens their ids and their range."""
    several = len(run.ids) > 1
    ids = " ".join(str(i) for i in run.ids[:6]) + (" ..." if len(run.ids) > 6 else "")
    first, last = run.counters[0], run.counters[-1]
    place = "" if first < 0 else f" {first} to {last}" if several else f" {first}"
    label = "itself" if run.state is State.SUPERVISED and several else str(run.labels[0])
    return f"{'ids' if several else 'id'} {ids}, {run.role.label}{place}, label {label}, weight {run.weight:g}"


def _token_data(draw: Draw) -> tuple[list[int], list[int | list[int]], list[int]]:
    """What the script needs to split a run: length in UTF-16 units, ids and counter of each piece."""
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
    return lengths, ids, counters
