"""What there is to draw of a run's log: one panel per kind of quantity, and lines in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import numpy as np

from cot_components.roles import Role
from cot_components.runs.log import Record, has_any, series
from cot_components.viz.theme import BLURRED, MUTED, ROLE_COLOURS, RUN_COLOURS

THOUGHT, ANSWER = ROLE_COLOURS[Role.THOUGHT].light, ROLE_COLOURS[Role.ANSWER].light
FORMAT, STAGE = ROLE_COLOURS[Role.THINK_OPEN].light, ROLE_COLOURS[Role.CALL].light


@dataclass(frozen=True)
class Line:
    """One curve. Training curves are noisy: `smooth` draws the raw values faintly behind a running median."""

    label: str
    colour: str
    steps: np.ndarray
    values: np.ndarray
    smooth: bool = False
    dashed: bool = False
    stairs: bool = False

    @property
    def trend(self) -> np.ndarray:
        """The values as drawn in full colour."""
        return running_median(self.values) if self.smooth else self.values


@dataclass(frozen=True)
class Panel:
    """One set of axes. `kind`: loss (logarithmic where it falls far), share (0 to 100 %), count (from 0)."""

    title: str
    kind: Literal["loss", "share", "count"]
    lines: list[Line]


def run_panels(records: Sequence[Record]) -> list[Panel]:
    """Panels of one run: quantities that belong together share axes."""

    def line(key: str, label: str, colour: str, **how: bool) -> Line:
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
                line("answer_accuracy", "correct", ANSWER),
                line("format_rate", "well formed", FORMAT),
                line("cut_rate", "cut off", MUTED.light, dashed=True),
            ],
        ),
        Panel("Thought length, tokens", "count", [line("thought_tokens", "", THOUGHT)]),
        Panel("Removed tokens", "count", [line("removed", "", STAGE, stairs=True)]),
    ]
    if not has_any(records, "removed"):
        panels.append(Panel("Stage", "count", [line("stage", "", STAGE, stairs=True)]))
    return _filled(panels)


COMPARED: tuple[tuple[str, str, Literal["loss", "share", "count"]], ...] = (
    ("loss_thought", "Loss on thoughts", "loss"),
    ("loss_answer", "Loss on answers", "loss"),
    ("answer_accuracy", "Answers correct", "share"),
    ("format_rate", "Answers well formed", "share"),
    ("thought_tokens", "Thought length, tokens", "count"),
    ("stage", "Stage", "count"),
)


def compare_panels(logs: Sequence[Sequence[Record]]) -> list[Panel]:
    """Panels of several runs: one quantity each, one colour per run."""
    panels = []
    for key, title, kind in COMPARED:
        lines = [
            Line("", colour, *series(records, key), smooth=kind == "loss", stairs=key == "stage")
            for records, colour in zip(logs, cycle(RUN_COLOURS), strict=False)
        ]
        panels.append(Panel(title, kind, lines))
    return _filled(panels)


def _filled(panels: Sequence[Panel]) -> list[Panel]:
    kept = [Panel(p.title, p.kind, [x for x in p.lines if np.isfinite(x.values).any()]) for p in panels]
    return [panel for panel in kept if panel.lines]


def running_median(values: np.ndarray, *, share: float = 0.04) -> np.ndarray:
    """Median over a window of `share` of the curve around each point: noise goes, steps stay. NaN stays NaN."""
    half = int(len(values) * share / 2)
    if half == 0:
        return values
    padded = np.concatenate([np.full(half, np.nan), values, np.full(half, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    finite = np.isfinite(values)
    smoothed = np.full(len(values), np.nan)
    smoothed[finite] = np.nanmedian(windows[finite], axis=1)
    return smoothed
