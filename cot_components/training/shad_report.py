"""The `shad` recipe's check of its data, and its printed report."""

from __future__ import annotations

import numpy as np

from cot_components.data.rows.scores import Scores
from cot_components.datasets import ReasoningDataset
from cot_components.errors import UserError
from cot_components.evaluation.class_report import report_classes
from cot_components.roles import Role
from cot_components.runs.layout import CLASSES
from cot_components.training.setup import Run
from cot_components.transforms.discriminator import classify
from cot_components.viz.class_view import show, show_samples
from cot_components.viz.console import plain_console
from cot_components.viz.visible import one_line


def check_calls(data: ReasoningDataset, *, needed: bool) -> None:
    """Require at least one tool call.

    Raises:
        UserError: calls are needed, but no row has one.
    """
    if needed and not (data.rows.roles == Role.CALL).any():
        raise UserError(
            f"none of the {len(data.rows):,} rows has a tool call; are dataset.source and dataset.format right? "
            "needs_calls=false accepts any outputs"
        )


def print_classes(
    run: Run,
    data: ReasoningDataset,
    scores: Scores,
    *,
    threshold: float,
    truth: np.ndarray | None,
    shown_rows: int,
) -> None:
    """Count the classes of scored rows into `classes.json`; print them, the most extreme phrases and some samples."""
    report = report_classes(data.rows, scores, data.chat.tokenizer.decode, threshold=threshold, truth=truth)
    written, console = report.save(run.output_dir / CLASSES), plain_console()
    indices = np.linspace(0, len(data.rows) - 1, min(shown_rows, len(data.rows)), dtype=np.int64).tolist()
    samples = show_samples(
        data.rows,
        classify(scores.column("original"), scores.column("shuffled"), threshold=threshold),
        data.chat.tokenizer.decode,
        indices=indices,
        truth=truth,
        coloured=console.color_system is not None and not console.no_color,
    )
    for part in (*samples, *show(report)):
        console.print(part)
    for line in (f"scores  {scores.folder}", f"classes {written}"):
        console.print(one_line(line), soft_wrap=True)
