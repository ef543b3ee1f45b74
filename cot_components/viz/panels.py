"""What can be plotted from the log of a run: one panel per kind of quantity, and the lines in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal

import numpy as np

from cot_components.roles import Role
from cot_components.runs.log import Record, as_number, has_any, series
from cot_components.viz.theme import BLURRED, MUTED, ROLE_COLOURS, RUN_COLOURS

THOUGHT, ANSWER = ROLE_COLOURS[Role.THOUGHT].light, ROLE_COLOURS[Role.ANSWER].light
FORMAT, STAGE = ROLE_COLOURS[Role.THINK_OPEN].light, ROLE_COLOURS[Role.CALL].light


MARKS: dict[str, dict[str, Any]] = {
    "ring": {"marker": "o", "markersize": 4, "markerfacecolor": "none", "alpha": 0.5},
    "square": {"marker": "s", "markersize": 6},
    "diamond": {"marker": "D", "markersize": 7},
}
"""How matplotlib draws points without a line."""


REMOVAL_MARKS = {"ring": "within a stage", "square": "at the end", "diamond": "unchanged"}
"""What the marks in the panel of accuracy against removal mean."""


@dataclass(frozen=True)
class Line:
    """One curve. Training curves are noisy: `smooth` draws the raw values faintly behind a running median.

    marks: a name of `MARKS` for points without a line
    between: lower and upper end of each value's interval, `[n, 2]`, or None
    notes: a word beside each point, or empty
    """

    label: str
    colour: str
    steps: np.ndarray
    values: np.ndarray
    smooth: bool = False
    dashed: bool = False
    stairs: bool = False
    marks: str = ""
    between: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def trend(self) -> np.ndarray:
        """The values as drawn in full colour."""
        return running_median(self.values) if self.smooth else self.values


@dataclass(frozen=True)
class Panel:
    """One set of axes. `kind`: loss (logarithmic if it falls far), share (0 to 100 %), count (from 0).

    across: what the horizontal axis counts
    """

    title: str
    kind: Literal["loss", "share", "count"]
    lines: list[Line]
    across: str = "step"


def panels_of(logs: Sequence[Sequence[Record]]) -> list[Panel]:
    """Everything that can be plotted from one run, or from several with one quantity per panel."""
    return run_panels(logs[0]) if len(logs) == 1 else compare_panels(logs)


Intervals = Mapping[int, tuple[float, float]]
"""Step -> interval of the accuracy measured at that step."""


def run_panels(records: Sequence[Record], intervals: Intervals | None = None) -> list[Panel]:
    """Panels of one run: quantities that belong together share axes. Accuracies get their intervals."""

    def line(key: str, label: str, colour: str, **how: Any) -> Line:
        steps, values = series(records, key)
        return Line(label, colour, steps, values, **how)

    panels = [
        Panel(
            "Loss",
            "loss",
            [
                line("loss_thought", "thought", THOUGHT, smooth=True),
                line("loss_answer", "answer", ANSWER, smooth=True),
                line("loss_blurred", "blurred", BLURRED.light, dashed=True),
                line("val_loss", "validation", MUTED.light),
            ],
        ),
        Panel(
            "Answers",
            "share",
            [
                _accuracy(records, "correct", ANSWER, intervals),
                line("teacher_forced_accuracy", "validation, teacher-forced", MUTED.light),
                line("format_rate", "well formed", FORMAT),
                line("thought_rate", "with a thought", THOUGHT, dashed=True),
                line("cut_rate", "cut off", MUTED.light, dashed=True),
            ],
        ),
        Panel("Thought length, tokens", "count", [line("thought_tokens", "", THOUGHT)]),
        Panel("Removed tokens", "count", [line("removed", "", STAGE, stairs=True)]),
        *_removal_panels([records], [ANSWER]),
    ]
    if not has_any(records, "removed"):
        panels.append(Panel("Stage", "count", [line("stage", "", STAGE, stairs=True)]))
    return _filled(panels)


COMPARED: tuple[tuple[str, str, Literal["loss", "share", "count"]], ...] = (
    ("loss_thought", "Loss on thoughts", "loss"),
    ("loss_answer", "Loss on answers", "loss"),
    ("val_loss", "Validation loss", "loss"),
    ("answer_accuracy", "Answers correct", "share"),
    ("cut_rate", "Answers cut off", "share"),
    ("format_rate", "Answers well formed", "share"),
    ("thought_rate", "Answers with a thought", "share"),
    ("thought_tokens", "Thought length, tokens", "count"),
    ("stage", "Stage", "count"),
)


def compare_panels(
    logs: Sequence[Sequence[Record]], intervals: Sequence[Intervals | None] | None = None
) -> list[Panel]:
    """Panels of several runs: one quantity each, one colour per run. Accuracies get their intervals, by run."""
    panels = []
    coloured = list(zip(logs, cycle(RUN_COLOURS), intervals or [None] * len(logs), strict=False))
    for key, title, kind in COMPARED:
        lines = [
            _accuracy(records, "", colour, of_run)
            if key == "answer_accuracy"
            else Line("", colour, *series(records, key), smooth=kind == "loss", stairs=key == "stage")
            for records, colour, of_run in coloured
        ]
        panels.append(Panel(title, kind, lines))
    return _filled([*panels, *_removal_panels(logs, RUN_COLOURS)])


def _accuracy(records: Sequence[Record], label: str, colour: str, intervals: Intervals | None) -> Line:
    steps, values = series(records, "answer_accuracy")
    unknown = (np.nan, np.nan)
    between = np.array([(intervals or {}).get(int(step), unknown) for step in steps], dtype=float).reshape(-1, 2)
    return Line(label, colour, steps, values, between=between if intervals else None)


def internalisation_panels(logs: Sequence[Sequence[Record]]) -> list[Panel]:
    """Stepwise internalisation in two panels: accuracy as more and more of the thought is removed, and the loss on
    answers, which jumps at every removal and recovers.
    """
    losses = [
        Line("", colour, *series(records, "loss_answer"))
        for records, colour in zip(logs, cycle(RUN_COLOURS), strict=False)
    ]
    return _filled([*_removal_panels(logs, RUN_COLOURS), Panel("Loss on answers", "loss", losses)])


def accuracy_by_removal(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every evaluation of a run, in order: units removed so far, answer accuracy and step, `[E]` each."""
    found = [[as_number(r.get(name)) for name in ("removed", "answer_accuracy", "step")] for r in records]
    columns = np.array(found, dtype=np.float64).reshape(-1, 3)
    columns = columns[np.isfinite(columns).all(axis=1)]
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _removal_panels(logs: Sequence[Sequence[Record]], colours: Sequence[str]) -> list[Panel]:
    """Accuracy against removed tokens if one of the runs removes more and more of them; otherwise no panel."""
    lines = [_removal_lines(records, colour) for records, colour in zip(logs, cycle(colours), strict=False)]
    if not any(len(of_run) > 1 for of_run in lines):
        return []
    drawn = [line for of_run in lines for line in of_run]
    marks = {line.marks for line in drawn if len(line.values)}
    said = ", ".join(f"{mark}: {words}" for mark, words in REMOVAL_MARKS.items() if mark in marks)
    across = f"thought tokens removed\n{said}"
    return [Panel("Answers correct by removal", "share", drawn, across)]


def _removal_lines(records: Sequence[Record], colour: str) -> list[Line]:
    """A line through the last evaluation of every stage, except that it takes the first of the last stage: what
    training gains after the final removal rises vertically from there. All other evaluations are rings. A run that
    always removes the same amount is a diamond at its last accuracy.
    """
    removed, accuracy, _ = accuracy_by_removal(records)
    stage = np.floor(removed + 1e-6)  # smoothing adds a little to the stage
    if len(np.unique(stage)) < 2:
        return [Line("", colour, stage[-1:], accuracy[-1:], marks="diamond")]
    on_line = np.append(stage[1:] != stage[:-1], False)
    arrived = np.flatnonzero(stage == stage[-1])[0]
    on_line[arrived] = True
    return [
        Line("", colour, stage[~on_line], accuracy[~on_line], marks="ring"),
        Line("", colour, stage[on_line], accuracy[on_line]),
        Line("", colour, stage[[-1, -1]], accuracy[[arrived, -1]], dashed=True),
        Line("", colour, stage[-1:], accuracy[-1:], marks="square"),
    ]


def _filled(panels: Sequence[Panel]) -> list[Panel]:
    kept = [replace(p, lines=[line for line in p.lines if np.isfinite(line.values).any()]) for p in panels]
    return [panel for panel in kept if panel.lines]


def running_median(values: np.ndarray, *, share: float = 0.04) -> np.ndarray:
    """Median over a window around each point, `share` of the curve wide: removes noise, keeps jumps. NaN stays NaN."""
    half = int(len(values) * share / 2)
    if half == 0:
        return values
    padded = np.concatenate([np.full(half, np.nan), values, np.full(half, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    finite = np.isfinite(values)
    smoothed = np.full(len(values), np.nan)
    smoothed[finite] = np.nanmedian(windows[finite], axis=1)
    return smoothed
