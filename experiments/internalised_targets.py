"""Stepwise internalisation under DFT: a removal makes the next token improbable, and DFT weights tokens by probability.

Runs of `icot_sft/quickstart` at the published pace; with a floor, answers are learnt as in plain fine-tuning, however
improbable they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.internalisation import METRICS, train
from experiments.study import Cell, Study

DFT = "loss=cot_components.losses.dft"
ARMS = {
    "sft": [],
    "dft": [DFT],
    "dft, floor of 0.5 on answers": [DFT, "loss.floor={answer: 0.5}"],
    "dft, floor of 1 on answers": [DFT, "loss.floor={answer: 1.0}"],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `icot_sft`."""
    return train(cell, *ARMS[cell.arm])


STUDY = Study(
    name="internalised_targets",
    question="Can thoughts be internalised under another target?",
    about=__doc__,
    model="GPT-2, 2 layers, width 64, random weights",
    arrives={"accuracy": 0.95},
    answer="Not under DFT as it is, which gets no product right in any of three seeds; with a floor under its weight "
    "on answers most are right, with no clear difference from plain fine-tuning.",
    findings="By seed plain fine-tuning ends at 50, 99 and 68 %, DFT at 0, 0 and 0 %, DFT with a floor of 0.5 at 91, "
    "99 and 99 %, with a floor of 1 at 52, 98 and 95 %. A likely reason, not tested: from random weights every token "
    "is improbable, and DFT weights it accordingly; a floor keeps the weight of answer tokens from vanishing.",
    effect=("accuracy", "dft", "2x2"),
    arms=tuple(ARMS),
    settings=("2x2",),
    setting_label="digits",
    metrics=METRICS,
    percent=tuple(METRICS),
    cell=cell,
    seeds=3,
)
