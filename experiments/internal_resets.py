"""Which part of the reset at a removal matters: fresh moments, the learning rate back at its peak, or both?

Runs of `icot_sft/quickstart` at the published pace, as in the study `internalisation`. Whenever tokens are removed, the
first arm clears the optimizer's moments and restarts the learning-rate schedule; the others do one of the two or
neither. The last arm removes from the right as the released script does: its check for rows without a thought matches
every row, so it never resets.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.internalisation import METRICS, train
from experiments.study import Cell, Study

KEPT, ONE_SCHEDULE = "curriculum.reset_optimizer=false", "curriculum.restart_schedule=false"
RESTART = "curriculum.restart_schedule=true"
ARMS = {
    "reset and restart": [RESTART],
    "reset alone": [ONE_SCHEDULE],
    "restart alone": [KEPT, RESTART],
    "neither": [KEPT, ONE_SCHEDULE],
    "right side as released": [KEPT, ONE_SCHEDULE, "curriculum.side=right"],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `icot_sft`."""
    return train(cell, *ARMS[cell.arm])


STUDY = Study(
    name="internal_resets",
    question="Fresh moments, a restarted learning rate, or both?",
    about=__doc__,
    model="GPT-2, 2 layers, width 64, random weights",
    arrives={"accuracy": 0.95},
    effect=("accuracy", "restart alone", "2x2"),
    arms=tuple(ARMS),
    settings=("2x2",),
    setting_label="digits",
    metrics=METRICS,
    percent=tuple(METRICS),
    cell=cell,
    seeds=8,
    needs="five hours of one core",
)
