"""Classes of tokens around a run: do all rows get them, how many tokens are of which, what was found."""

from __future__ import annotations

from typing import Any

import numpy as np

from cot_components.clock import Clock
from cot_components.data.scores import Scores
from cot_components.datasets import ReasoningDataset
from cot_components.discriminator import REASONING
from cot_components.errors import UserError
from cot_components.evaluation.classes import FILE, report_classes, show, show_samples
from cot_components.roles import IGNORE, Role
from cot_components.training.setup import Run
from cot_components.viz.console import plain_console
from cot_components.viz.visible import one_line

ROWS_AT_ONCE = 512


def check_calls(data: ReasoningDataset, *, needed: bool) -> None:
    """Make sure agent data are agent data.

    Raises:
        UserError: calls are needed and no row has one.
    """
    if needed and not (data.rows.roles == Role.CALL).any():
        raise UserError(
            f"none of the {len(data.rows):,} rows has a tool call; are dataset.source and dataset.format right? "
            "needs_calls=false takes any outputs"
        )


def check_classes(loss: Any, data: ReasoningDataset) -> str:
    """Send every row through the transforms once, so that scores of other data are refused before a model is built.

    Args:
        loss: a `losses.Loss`; its weight rule may need classes.
        data: the training data with its transforms.

    Returns:
        What the classes of the counted tokens are, for the log.

    Raises:
        UserError: the loss needs classes and no transform makes any; see the transforms.
    """
    counted = reasoning = 0
    for begin in range(0, len(data.rows), ROWS_AT_ONCE):
        flat = data.rows.flat(range(begin, min(begin + ROWS_AT_ONCE, len(data.rows))))
        for transform in data.transforms.values():
            flat = transform(flat, Clock(0, 0))
        if flat.groups is None:
            if "groups" in loss.needs:
                raise UserError(
                    "loss.weight_rule weighs classes of tokens, and no transform makes any; put cot_components."
                    "transforms.Highlight or ByPattern into dataset.transforms, or set loss.weight_rule=null"
                )
            return "tokens have no classes"
        here = (flat.labels != IGNORE) & (flat.weights != 0)
        counted += int(here.sum())
        reasoning += int(np.sum(flat.groups[here] == REASONING))
    return f"{reasoning / max(counted, 1):.1%} of {counted:,} supervised tokens are reasoning"


def print_classes(
    run: Run,
    data: ReasoningDataset,
    scores: Scores,
    *,
    threshold: float,
    truth: np.ndarray | None,
    shown_rows: int,
) -> None:
    """Count the classes of scored rows into `classes.json`; print them, the phrases at both ends and some samples."""
    report = report_classes(data.rows, scores, data.chat.tokenizer.decode, threshold=threshold, truth=truth)
    written, console = report.save(run.output_dir / FILE), plain_console()
    indices = np.linspace(0, len(data.rows) - 1, min(shown_rows, len(data.rows)), dtype=np.int64).tolist()
    samples = show_samples(
        data.rows,
        scores,
        data.chat.tokenizer.decode,
        indices=indices,
        threshold=threshold,
        truth=truth,
        coloured=console.color_system is not None and not console.no_color,
    )
    for part in (*samples, *show(report)):
        console.print(part)
    for line in (f"scores  {scores.folder}", f"classes {written}"):
        console.print(one_line(line), soft_wrap=True)
