"""What the discriminator found: share of reasoning, errors where the truth is known, the phrases at both ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cot_components.config import check, fits
from cot_components.data.rows.scores import Scores, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.files import read_object
from cot_components.transforms.discriminator import (
    CLASSES,
    REASONING,
    Confusion,
    Phrase,
    classify,
    loss_difference,
    phrases,
)
from cot_components.viz.classes import classes_text
from cot_components.viz.visible import visible

FILE = "classes.json"
SHOWN_PHRASES = 10


@dataclass(frozen=True)
class ClassReport:
    """Classes of all scored tokens of a data set, counted.

    threshold:   in nats, above which a loss difference is reasoning
    num_tokens:  scored tokens
    num_reasoning: those above the threshold
    confusion:   `[[true boilerplate found boilerplate, ... found reasoning], [true reasoning ...]]`, None without truth
    boilerplate, reasoning: the most boilerplate-like and the most reasoning-like texts
    """

    threshold: float
    num_tokens: int
    num_reasoning: int
    confusion: list[list[int]] | None
    boilerplate: list[Phrase]
    reasoning: list[Phrase]

    @property
    def against_truth(self) -> Confusion | None:
        """Errors; None where nobody knows the truth."""
        return None if self.confusion is None else Confusion(np.array(self.confusion))

    def save(self, path: Path) -> Path:
        """Write it as JSON."""
        errors = self.against_truth
        rates = {} if errors is None else {"error_rate": errors.error_rate, "recall": errors.recall}
        path.write_text(json.dumps({**rates, **asdict(self)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def read_report(path: Path) -> ClassReport:
    """A report written by `ClassReport.save`.

    Raises:
        UserError: no such file, or not a report.
    """
    saved = read_object(path)
    try:
        counts: dict[str, Any] = {
            name: saved[name] for name in ("threshold", "num_tokens", "num_reasoning", "confusion")
        }
        low, high = ([Phrase(*phrase) for phrase in saved[name]] for name in CLASSES)
        check(ClassReport, {**counts, "boilerplate": low, "reasoning": high})
        if not all(fits(p.text, str) and fits(p.difference, float) and fits(p.times, int) for p in (*low, *high)):
            raise UserError("a phrase must be a text, its LD and how often it occurs")
        if counts["confusion"] is not None and np.array(counts["confusion"], dtype=np.int64).shape != (2, 2):
            raise UserError("confusion must have two rows of two counts")
        return ClassReport(**counts, boilerplate=low, reasoning=high)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: no report of classes ({error})") from error


def report_classes(
    rows: Rows,
    scores: Scores,
    decode: Callable[[Sequence[int]], str],
    *,
    threshold: float = 0.0,
    truth: np.ndarray | None = None,
) -> ClassReport:
    """Count the classes of scored rows.

    Args:
        rows: the rows that were scored, in the same order.
        scores: with finished columns `original` and `shuffled`.
        decode: token ids to text, for the phrases.
        truth: classes `[N]`.

    Raises:
        UserError: scores that are not finished.
    """
    for name in ("original", "shuffled"):
        scores.finished(name)
    losses = scores.column("original"), scores.column("shuffled")
    where, found = scored_tokens(rows), classify(*losses, threshold=threshold)
    confusion = None if truth is None else Confusion.of(truth, found, where).counts.tolist()
    low, high = phrases(rows, loss_difference(*losses), decode)
    return ClassReport(threshold, int(where.sum()), int((found[where] == REASONING).sum()), confusion, low, high)


def show(report: ClassReport) -> Iterator[RenderableType]:
    """The report for a terminal."""
    share = report.num_reasoning / max(report.num_tokens, 1)
    yield Text(f"{share:.1%} of {report.num_tokens:,} output tokens are reasoning (LD above {report.threshold:g})")
    if report.against_truth is not None:
        yield Text(report.against_truth.table())
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for side in CLASSES:
        table.add_column(f"most {side}-like")
        table.add_column("LD", justify="right")
        table.add_column("times", justify="right")
    for low, high in zip(report.boilerplate[:SHOWN_PHRASES], report.reasoning[:SHOWN_PHRASES], strict=False):
        cells = [(visible(p.text).replace("\n", ""), f"{p.difference:+.2f}", f"{p.times:,}") for p in (low, high)]
        table.add_row(*(Text(cell) for cell in (*cells[0], *cells[1])))
    yield table


def show_samples(
    rows: Rows,
    scores: Scores,
    decode: Callable[[Sequence[int]], str],
    *,
    indices: Sequence[int],
    threshold: float = 0.0,
    truth: np.ndarray | None = None,
    coloured: bool = True,
) -> Iterator[RenderableType]:
    """Outputs of some rows with their classes."""
    found = classify(scores.column("original"), scores.column("shuffled"), threshold=threshold)
    where = scored_tokens(rows)
    for index in indices:
        here = np.arange(rows.row_start[index], rows.row_start[index + 1])
        output = here[where[here]]
        of_truth = None if truth is None else truth[output]
        yield Rule(Text(f"row {rows.ids[index]}"), align="left", style="bright_black")
        yield classes_text(rows.tokens[output].tolist(), found[output], decode, truth=of_truth, coloured=coloured)


def compare_reports(run_dirs: Sequence[Path]) -> Table:
    """One line per run of the recipe `shad`.

    Raises:
        UserError: a folder without a report.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in ("", "reasoning", "error rate", "reasoning found", "boilerplate taken for reasoning"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for folder in run_dirs:
        report = read_report(folder / FILE)
        cells = [f"{report.num_reasoning / max(report.num_tokens, 1):.1%}"]
        if (errors := report.against_truth) is not None:
            wrong = errors.counts[0, 1] / max(errors.counts[0].sum(), 1)
            cells += [f"{errors.error_rate:.2%}", f"{errors.recall:.1%}", f"{wrong:.2%}"]
        table.add_row(Text(visible(folder.name)), *cells)
    return table
