"""The results of `shad` in the terminal: a report, sample rows, and a table that compares several runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cot_components.data.rows.scores import scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.data.text.pieces import Decode, decode_pieces
from cot_components.evaluation.class_report import ClassReport
from cot_components.viz.visible import visible

STYLES = ("bright_black", "bold cyan")
"""For boilerplate and for reasoning."""
WRONG = "bold white on red"
SHOWN_PHRASES = 10


def show(report: ClassReport) -> Iterator[RenderableType]:
    """A report as rich renderables."""
    share = report.num_reasoning / max(report.num_tokens, 1)
    yield Text(f"{share:.1%} of {report.num_tokens:,} output tokens are reasoning (LD above {report.threshold:g})")
    if report.against_truth is not None:
        yield Text(report.against_truth.table())
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for side in ("boilerplate", "reasoning"):
        table.add_column(f"most {side}-like")
        table.add_column("LD", justify="right")
        table.add_column("times", justify="right")
    for low, high in zip(report.boilerplate[:SHOWN_PHRASES], report.reasoning[:SHOWN_PHRASES], strict=False):
        cells = [(visible(p.text).replace("\n", ""), f"{p.difference:+.2f}", f"{p.times:,}") for p in (low, high)]
        table.add_row(*(Text(cell) for cell in (*cells[0], *cells[1])))
    yield table


def show_samples(
    rows: Rows,
    found: np.ndarray,
    decode: Decode,
    *,
    indices: Sequence[int],
    truth: np.ndarray | None = None,
    coloured: bool = True,
) -> Iterator[RenderableType]:
    """The outputs of some rows, with the class of every token.

    Args:
        found, truth: classes of all tokens of `rows`, `[N]`.
        indices: rows to show.
    """
    where = scored_tokens(rows)
    for index in indices:
        here = np.arange(rows.row_start[index], rows.row_start[index + 1])
        output = here[where[here]]
        of_truth = None if truth is None else truth[output]
        yield Rule(Text(f"row {rows.ids[index]}"), align="left", style="bright_black")
        yield classes_text(rows.tokens[output].tolist(), found[output], decode, truth=of_truth, coloured=coloured)


def compare_reports(reports: Mapping[str, ClassReport]) -> Table:
    """One line per run, by name."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in ("", "reasoning", "error rate", "reasoning found", "boilerplate taken for reasoning"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for name, report in reports.items():
        cells = [f"{report.num_reasoning / max(report.num_tokens, 1):.1%}"]
        if (errors := report.against_truth) is not None:
            wrong = errors.counts[0, 1] / max(errors.counts[0].sum(), 1)
            cells += [f"{errors.error_rate:.2%}", f"{errors.recall:.1%}", f"{wrong:.2%}"]
        table.add_row(Text(visible(name)), *cells)
    return table


def classes_text(
    ids: Sequence[int], found: np.ndarray, decode: Decode, *, truth: np.ndarray | None = None, coloured: bool = True
) -> Text:
    """One output: boilerplate dim, reasoning bright, errors on red if the truth is known.

    Args:
        ids: the output's tokens, `[n]`.
        found, truth: classes `[n]`, 0 boilerplate, 1 reasoning; a character of several tokens is reasoning if one is.
        coloured: if false, brackets mark the classes: `[reasoning]`, `{wrong}`.
    """
    text, at = Text(), 0
    runs: list[tuple[str, tuple[bool, bool]]] = []
    for piece in decode_pieces(ids, decode):
        here = slice(at, at + piece.num_tokens)
        reasoning = bool(found[here].any())
        kind = reasoning, truth is not None and bool(truth[here].any()) != reasoning
        shown = visible(piece.text)
        if runs and runs[-1][1] == kind:
            runs[-1] = (runs[-1][0] + shown, kind)
        else:
            runs.append((shown, kind))
        at = here.stop
    for shown, (reasoning, wrong) in runs:
        if coloured:
            text.append(shown, WRONG if wrong else STYLES[reasoning])
        else:
            text.append(f"{{{shown}}}" if wrong else f"[{shown}]" if reasoning else shown)
    return text
