"""Is the cost of blurring more than noise? Half weight on thoughts, half of them blurred, fewer rows, plain SFT.

From random weights, 400 steps on 3,200 traces, as in the setting "clean" of the study `blur`; a single learning rate.

| arm | every step |
|---|---|
| half weight | 32 rows, a token of a thought counts half: the average of `blur 0.5`, without its noise |
| sft | 32 rows |
| blur 0.5 | 32 rows, half of every thought without labels, redrawn every epoch |
| 22 rows | as many labels as `blur 0.5` |
| 16 rows | as many labels on thoughts as `blur 0.5` |
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.blur import BLUR, PLAIN, train
from experiments.study import Cell, Study

WHOLE = f"{BLUR}.ratio=0"
ROLES = "dataset.transforms.weights={_component_: cot_components.transforms.ByRole, factors: {thought: 0.5}}"
ARMS = {
    "half weight": [WHOLE, ROLES],
    "sft": [WHOLE],
    "blur 0.5": [f"{BLUR}.ratio=0.5"],
    "22 rows": [WHOLE, "batch_size=22", "max_steps_per_epoch=100"],
    "16 rows": [WHOLE, "batch_size=16", "max_steps_per_epoch=100"],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `bt_sft` from random weights."""
    length = ["dataset.max_rows=3200", "epochs=4"]
    return train(cell, PLAIN._replace(worded=False), *length, *ARMS[cell.arm])


STUDY = Study(
    name="blur_noise",
    question="Is the cost of blurring more than noise?",
    about=__doc__,
    model="Llama, 2 layers, width 96, random weights",
    effect=("answer_accuracy", "blur 0.5", "clean"),
    arms=tuple(ARMS),
    settings=("clean",),
    setting_label="traces",
    metrics={
        "answer_accuracy": "held-out answers correct",
        "val_loss": "held-out loss over all tokens, nats",
    },
    percent=("answer_accuracy",),
    cell=cell,
    seeds=8,
)
