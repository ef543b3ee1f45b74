"""Accuracy against thought length, for runs that close thoughts at several budgets: one line per model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import cycle, takewhile
from pathlib import Path

import numpy as np

from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation
from cot_components.runs.same_config import read_config
from cot_components.viz.curves import draw_panels, drawing, picture_path
from cot_components.viz.panels import Line, Panel
from cot_components.viz.theme import RUN_COLOURS

ACROSS = "thought tokens, mean\nlabels: budget; bars: 95 % intervals"


def have_budgets(evaluations: Mapping[str, Evaluation]) -> bool:
    """Whether these evaluations have more than one budget; no budget counts as one."""
    return len({e.max_thought_tokens for e in evaluations.values()}) > 1


def plot_budgets(evaluations: Mapping[str, Evaluation], folders: Mapping[str, Path], path: str | Path) -> Path:
    """Plot each evaluation's accuracy against the mean length of its thoughts; runs whose configs differ only in the
    budget and the output folder share a line.

    Args:
        evaluations: by name.
        folders: of the runs, under the same names.
        path: the picture to write, a PNG or any other type that matplotlib supports.

    Returns:
        `path`.

    Raises:
        UserError: no evaluation has both an accuracy and a thought length, or the file type is not supported.
    """
    drawn = {name: e for name, e in evaluations.items() if None not in (e.answer_accuracy, e.thought_tokens)}
    if not drawn:
        raise UserError("accuracy against thoughts: no evaluation has both an accuracy and a thought length")
    lines: dict[str, list[str]] = {}
    for name in drawn:
        lines.setdefault(_but_for_budget(folders[name]), []).append(name)
    coloured = list(zip(lines.values(), cycle(RUN_COLOURS), strict=False))
    panel = Panel(
        "Answers correct by length of thought",
        "share",
        [_line([drawn[name] for name in names], colour) for names, colour in coloured],
        ACROSS,
    )
    figure = draw_panels([panel], [(_common(names), colour) for names, colour in coloured])
    figure.axes[0].set_xlim(left=0)
    with drawing():
        figure.savefig(path := picture_path(path), dpi=160)
    return path


def _line(evaluations: list[Evaluation], colour: str) -> Line:
    ordered = sorted(evaluations, key=lambda e: math.inf if e.max_thought_tokens is None else e.max_thought_tokens)
    return Line(
        "",
        colour,
        np.array([e.thought_tokens for e in ordered], dtype=float),
        np.array([e.answer_accuracy for e in ordered], dtype=float),
        between=np.array([e.accuracy_interval for e in ordered], dtype=float),
        notes=tuple("none" if e.max_thought_tokens is None else str(e.max_thought_tokens) for e in ordered),
    )


def _but_for_budget(folder: Path) -> str:
    """A run's config without budget and output folder; the path of the run if the config cannot be read."""
    try:
        config = read_config(folder)
    except UserError:
        return str(folder)
    evaluation = config.get("evaluation")
    if isinstance(evaluation, Mapping):
        config["evaluation"] = {key: value for key, value in evaluation.items() if key != "max_thought_tokens"}
    return json.dumps({key: value for key, value in config.items() if key != "output_dir"}, sort_keys=True, default=str)


def _common(names: list[str]) -> str:
    """The common prefix of the names; the first name if they have none."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("_-./ 0123456789") or names[0]
