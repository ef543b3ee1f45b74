"""Stepwise internalisation under DFT: a removal makes the next token improbable, and DFT weighs by probability.

Runs of `icot_sft/quickstart`; with a floor, answers are learnt as in plain fine-tuning however improbable they are.
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
    answer="No claim yet, one seed: under DFT no product is right from the first removal on, with a floor on answers "
    "many are.",
    findings="Right at the end, without a step: 99 % with SFT, 0 % with DFT, 91 % with a floor of 0.5, 52 % with a "
    "floor of 1. A likely reason: from random weights every token is improbable, and DFT weighs it so.",
    effect=("accuracy", "dft", "2x2"),
    arms=tuple(ARMS),
    settings=("2x2",),
    setting_label="digits",
    metrics=METRICS,
    percent=tuple(METRICS),
    cell=cell,
)
