"""Evaluations side by side, as rows of text and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cot_components.errors import UserError
from cot_components.evaluation.compare import accuracy_difference
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.statistics import Difference

LOSS_NAMES = {
    "val_loss": "validation loss",
    "val_loss_thought": "loss on thoughts",
    "val_loss_blurred": "loss on blurred",
    "val_loss_answer": "loss on answers",
    "val_loss_call": "loss on calls",
}


class Cell(NamedTuple):
    """A figure and its uncertainty; both empty if nothing was measured."""

    value: str = ""
    detail: str = ""


def summary_table(**evaluations: Evaluation) -> RenderableType:
    """One column per evaluation: `summary_table(before=..., after=...)`.

    Rates come with their 95 % Wilson interval; the numbers of examples, and of those without a reference answer, are
    below the table.

    Raises:
        UserError: no evaluation.
    """
    if not evaluations:
        raise UserError("no evaluation to show")
    results = list(evaluations.values())
    return _table(list(evaluations), summary_rows(results), footnote(results))


def comparison_table(evaluations: Mapping[str, Evaluation]) -> RenderableType:
    """`summary_table` of named evaluations, with the difference of each accuracy from the first one's.

    Differences are paired by example and come with their 95 % interval (see `paired_difference`).

    Raises:
        UserError: no evaluation.
    """
    if not evaluations:
        raise UserError("no evaluation to show")
    return _table(list(evaluations), *comparison_rows(evaluations))


def comparison_rows(evaluations: Mapping[str, Evaluation]) -> tuple[list[tuple[str, list[Cell]]], str]:
    """What `comparison_table` shows of at least one evaluation: rows as of `summary_rows`, and the note below them."""
    (first_name, first), *others = evaluations.items()
    rows, notes = summary_rows(list(evaluations.values())), [footnote(list(evaluations.values()))]
    found = [accuracy_difference(first, other) for _, other in others]
    if any(found):
        rows.insert(1, (f"difference from {first_name}", [Cell(), *map(_difference, found)]))
        counts = ", ".join(f"{n:,}" for n in sorted({d.num_examples for d in found if d}))
        notes.append(f"differences in points, over the {counts} examples that both answered")
    return rows, "\n".join(notes)


def _table(names: Sequence[str], rows: Sequence[tuple[str, list[Cell]]], note: str) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(Text(name), no_wrap=True)
    for title, cells in rows:
        table.add_row(Text(title), *(_aligned(cell) for cell in cells))
    return Group(table, Text(note, style="dim"))


def summary_rows(results: Sequence[Evaluation]) -> list[tuple[str, list[Cell]]]:
    """The measured quantities by name, with one cell per evaluation."""
    rows = [("answers correct", [_rate(r.answer_accuracy, r.accuracy_interval) for r in results])]
    if any(r.cut_rate is not None for r in results):
        rows.append(("cut by max_new_tokens", [_rate(r.cut_rate) for r in results]))
    if any(r.num_samples > 1 for r in results):
        rows.append(("any sample correct", [_rate(r.pass_at(r.num_samples)) for r in results]))
        rows.append(("majority correct", [_rate(r.majority_accuracy) for r in results]))
    if any(r.format_rate is not None for r in results):
        rows.append(("well formed", [_rate(r.format_rate, r.format_interval) for r in results]))
        rows.append(("with a thought", [_rate(r.thought_rate) for r in results]))
        if any(r.max_thought_tokens is not None for r in results):
            rows.append(("thought, at most", [_number(r.max_thought_tokens, ".0f") for r in results]))
        rows.append(("thought, mean tokens", [_number(r.thought_tokens, ".1f") for r in results]))
    for key, name in LOSS_NAMES.items():
        if any(key in r.losses for r in results):
            rows.append((name, [_number(r.losses.get(key), ".3f") for r in results]))
    return rows


def footnote(results: Sequence[Evaluation]) -> str:
    """The number of examples behind the rates, and how many could not be scored. They are called held-out if a
    comparison with the training data found no common prompt.
    """
    lines = []
    counts = {(len(r.by_trace), r.num_samples, len(r.unscored), r.held_out is True) for r in results}
    for num_traces, num_samples, num_unscored, held_out in sorted(counts):
        line = f"{num_traces:,} {'held-out ' if held_out else ''}examples"
        line += f", {num_samples} samples each" if num_samples > 1 else ""
        line += f"; {num_unscored:,} without a reference answer, not in the accuracy" if num_unscored else ""
        lines.append(line + "; 95 % intervals")
    return "\n".join(lines)


def _rate(rate: float | None, interval: tuple[float, float] | None = None) -> Cell:
    if rate is None:
        return Cell()
    detail = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else ""
    return Cell(f"{100 * rate:.1f} %", detail)


def _difference(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell()
    value, low, high = (f"{100 * x:+.1f}" for x in difference[:3])
    return Cell(value, f"{low} to {high}")


def _number(value: float | None, form: str) -> Cell:
    return Cell() if value is None else Cell(f"{value:{form}}")


def _aligned(cell: Cell) -> Text:
    """The cell with its point in the fourth column, under that of `100.0 %`."""
    if not cell.value:
        return Text("  -", style="dim")
    whole_part, point, rest = cell.value.partition(".")
    return Text.assemble((f"{whole_part:>3}{point}{rest}", "bold"), (f"  {cell.detail}" if cell.detail else "", "dim"))


def samples_table(evaluations: Mapping[str, Evaluation], *, rows: int) -> RenderableType:
    """The first prompts with their completions, one column per evaluation, each marked right or wrong.

    Raises:
        UserError: an evaluation without examples.
    """
    for name, evaluation in evaluations.items():
        if not evaluation.examples:
            raise UserError(f"the evaluation {name} answered no prompt")
    table = Table(show_lines=True)
    for title in ("prompt", *evaluations):
        table.add_column(title, ratio=1)
    by_place = [{e.where: e for e in evaluation.examples if e.sample == 0} for evaluation in evaluations.values()]
    for where, first in list(by_place[0].items())[:rows]:
        said = [found[where] for found in by_place if where in found]
        cells = [f"{_MARKS[one.correct]}\n{one.completion}" for one in said]
        table.add_row(*(Text(cell) for cell in (first.prompt[-1]["content"], *cells)))
    return table


_MARKS = {True: "right:", False: "wrong:", None: "no reference:"}
