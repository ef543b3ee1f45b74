"""The same rows eight times on SmolLM2-135M: plain fine-tuning, one mask for all epochs, one per epoch.

40 plainly explained problems that the start of the study `blur_real` has not seen, for eight epochs in steps of 512
tokens: about 33,000 tokens. With three seeds it is descriptive and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.blur_real import ARMS
from experiments.real import CPU, figures, from_model, need_signal, taught, train
from experiments.screening import STUDY as SCREENING
from experiments.starts import unseen
from experiments.study import Cell, Study

ROWS = 40


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `bt_sft` from the taught model."""
    need_signal(SCREENING, "problems", "taught")
    told = [*unseen(cell, ROWS, "plain"), f"epochs={cell.setting}"]
    return figures(train(cell, CPU, *from_model(taught(cell)), *told, *ARMS[cell.arm]))


STUDY = Study(
    name="repetition_real",
    question="On SmolLM2-135M, does blurring pay off where rows repeat again and again?",
    about=__doc__,
    model="SmolLM2-135M-Instruct",
    effect=("accuracy", "blur once", "8"),
    arms=("sft", "blur once", "blur redrawn"),
    settings=("8",),
    setting_label="epochs",
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    seeds=3,
    jobs=1,
    needs="a free core for an hour",
)
