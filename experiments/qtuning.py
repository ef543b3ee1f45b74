"""Q-Tuning's rows and tokens against as many random rows, and against all, on traces of which some have a wrong step.

A beginner (see the study `grape`) meets 3,200 traces, of which 30 % have a wrong step on the way to a right answer. All
arms train for the same 100 updates of 32 rows from the same weights, each at its best of three learning rates: on a
random half of the rows, on the half that lies in two corners of the plane of error and uncertainty, with the hardest of
its tokens out of the loss until a quarter of all tokens is left, or on all rows. Seeds draw problems, weights and
order.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study import Cell, Study
from experiments.teachers import NEW, RATES, adapted, filled, new_problems, told

CORNERS = "dataset.select={one: {_component_: cot_components.selectors.QTuning, scores: $scores}}"
ARMS = {
    "random half": ["dataset.select={one: {_component_: cot_components.selectors.AtRandom, keep: 0.5, seed: $seed}}"],
    "q-tuning": [
        CORNERS,
        "dataset.transforms.tokens={_component_: cot_components.transforms.QTuning, scores: $scores}",
    ],
    "all": [],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of 100 updates."""
    path = cell.scratch / f"slips_{cell.seed}.jsonl"
    rows = told(path, new_problems(cell.seed, 2 * NEW, style="slips"), seed=cell.seed, by=["plain"])
    data = [f"dataset.source={rows}", "dataset.max_rows=null"]
    return adapted(cell, *data, *filled(ARMS[cell.arm], cell, data), "epochs=2", "max_steps_per_epoch=50")


STUDY = Study(
    name="qtuning",
    question="Rows between known and noise, and their easier tokens?",
    answer="No, it costs here: with Q-Tuning's rows and tokens the model ends 11 +- 6 points below a random half of "
    "the rows, lower in seven of eight seeds, each arm at its best of three learning rates.",
    findings="Before, the beginner answers 19 to 30 % (four seeds). The loss on held-out thoughts is a little higher, "
    "too. Both halves take a rate of 1e-3, all rows 3e-4, at which they end 5 +- 4 points below the random half "
    "(p = 0.05); a rate is chosen by 240 answers of one seed, so neighbouring rates are within its noise. The scores "
    "are those of the beginner and the plane is that of all rows; the paper takes both from each batch and the model "
    "as it learns. Rows and tokens were not tried apart.",
    about=__doc__,
    model="Llama, 2 layers, width 96, that has seen such problems four times",
    effect=("accuracy", "q-tuning", "slips"),
    arms=tuple(ARMS),
    settings=("slips",),
    setting_label="traces",
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    rates=dict.fromkeys(ARMS, RATES),
    chosen_by="wrong",
    seeds=8,
)
