"""Which methods combine and which fight: blur x target and blur x weights, on clean and on mistaken demonstrations.

Start and teacher as in the study of targets. Blur is of half a thought. The weights are of one role: answers count
three times.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study import Cell, Study
from experiments.targets import ALONE, LOSS, METRICS, PERCENT, train

SFT, DFT = [LOSS + "sft", *ALONE], [LOSS + "dft", *ALONE]
BLUR = ["dataset.transforms.blur._component_=cot_components.transforms.Blur", "dataset.transforms.blur.ratio=0.5"]
WEIGHTS = [
    "dataset.transforms.weights._component_=cot_components.transforms.ByRole",
    "dataset.transforms.weights.factors.answer=3",
]
ARMS = {
    "sft": SFT,
    "blur": [*SFT, *BLUR],
    "dft": DFT,
    "blur + dft": [*DFT, *BLUR],
    "target": [],
    "blur + target": BLUR,
    "weights": [*SFT, *WEIGHTS],
    "blur + weights": [*SFT, *BLUR, *WEIGHTS],
}
SETTINGS = {"mistaken": "mistaken", "clean": "plain"}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `target_sft`."""
    return train(cell, SETTINGS[cell.setting], *ARMS[cell.arm])


STUDY = Study(
    name="compositions",
    question="Which methods combine, and which fight?",
    arms=tuple(ARMS),
    settings=tuple(SETTINGS),
    setting_label="demonstrations",
    answer="No claim yet: with three seeds no difference in accuracy excludes zero, and none hints at methods that "
    "fight.",
    findings="On clean demonstrations half a thought blurred costs 9 to 12 points with any loss and with answers that "
    "count three times; on mistaken ones 12 with Target-SFT, which stays 24 points above SFT, 6 with DFT, nothing "
    "with SFT. Counting answers three times changes nothing. DFT halves the diversity of wordings with and without "
    "blur.",
    about=__doc__,
    effect=("accuracy", "blur + target", "mistaken"),
    combined={f"blur + {other}": ("blur", other) for other in ("dft", "target", "weights")},
    metrics=METRICS,
    percent=PERCENT,
    cell=cell,
)
