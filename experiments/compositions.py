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
    answer="No pair interacts beyond a floor: with half a thought blurred Target-SFT ends 1.1 +- 0.9 logits below the "
    "sum of the two where demonstrations are mistaken, but there SFT already sits at the share of right ones, from "
    "which blurring takes nothing more.",
    findings="Retired, for that floor: that blurring and Target-SFT fight. On mistaken demonstrations, of which 40 % "
    "are right, SFT ends at 38 % and with half of every thought blurred at 40 %; Target-SFT ends at 79 and 62 % "
    "(distillation with the same teacher, nothing blurred, at 82 %). On clean demonstrations, where there is no "
    "floor, blurring costs both the same: half a thought blurred ends 10 +- 9 points below SFT, with Target-SFT 10 +- "
    "9, with answers that count three times 11 +- 11, with DFT 31 +- 21. Counting answers three times does nothing "
    "clear by itself (-1 +- 1 and -0 +- 3). DFT takes away half of the diversity of wordings, without blur (-25 +- 3 "
    "points on clean, -20 +- 3 on mistaken demonstrations) and with it (-25 +- 4 and -17 +- 6).",
    about=__doc__,
    model="Llama, 2 layers, width 96, that solves tasks now and then",
    effect=("accuracy", "blur + target", "mistaken"),
    combined={f"blur + {other}": ("blur", other) for other in ("dft", "target", "weights")},
    metrics=METRICS,
    percent=PERCENT,
    cell=cell,
)
