"""Evaluations side by side, as a table for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation

LOSS_NAMES = {
    "val_loss": "held-out loss",
    "val_loss_thought": "loss on thoughts",
    "val_loss_blurred": "loss on blurred",
    "val_loss_answer": "loss on answers",
    "val_loss_call": "loss on calls",
}


def summary_table(**evaluations: Evaluation) -> RenderableType:
    """One column per evaluation: `summary_table(before=..., after=...)`.

    Rates come with their 95 % Wilson interval; below the table stand the counts of examples, and of those without a
    reference answer.

    Raises:
        UserError: no evaluation.
    """
    if not evaluations:
        raise UserError("no evaluation to show")
    results = list(evaluations.values())
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for name in evaluations:
        table.add_column(name, justify="left", no_wrap=True)
    table.add_row("answers correct", *(_rate(result.answer_accuracy, result.accuracy_interval) for result in results))
    if any(result.num_samples > 1 for result in results):
        table.add_row("any sample correct", *(_rate(result.pass_at(result.num_samples)) for result in results))
        table.add_row("majority correct", *(_rate(result.majority_accuracy) for result in results))
    table.add_row("well formed", *(_rate(result.format_rate, result.format_interval) for result in results))
    table.add_row("thought, mean tokens", *(_number(result.thought_tokens, ".1f") for result in results))
    for key, name in LOSS_NAMES.items():
        if any(key in result.losses for result in results):
            table.add_row(name, *(_number(result.losses.get(key), ".3f") for result in results))
    return Group(table, _footnote(results))


def _rate(rate: float | None, interval: tuple[float, float] | None = None) -> Text:
    """`94.5 %  90.4 to 96.9`; a dash where nothing was measured."""
    if rate is None:
        return Text("    -", style="dim")
    text = Text(f"{100 * rate:5.1f} %", style="bold")
    if interval is None:
        return text
    return Text.assemble(text, (f"  {100 * interval[0]:.1f} to {100 * interval[1]:.1f}", "dim"))


def _number(value: float | None, form: str) -> Text:
    """A number whose point stands under that of the rates."""
    if value is None:
        return Text("    -", style="dim")
    whole_part, point, rest = f"{value:{form}}".partition(".")
    return Text(f"{whole_part:>3}{point}{rest}")


def _footnote(results: list[Evaluation]) -> Text:
    """How many examples stand behind the rates, and how many could not be scored."""
    lines = []
    counts = {(len(r.by_trace), r.num_samples, len(r.unscored)) for r in results}
    for num_traces, num_samples, num_unscored in sorted(counts):
        line = f"{num_traces:,} held-out examples"
        line += f", {num_samples} samples each" if num_samples > 1 else ""
        line += f"; {num_unscored:,} without a reference answer, not in the accuracy" if num_unscored else ""
        lines.append(line + "; 95 % intervals")
    return Text("\n".join(lines), style="dim")
