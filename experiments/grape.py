"""Does it pay to train on the responses that fit the model? GRAPE against one drawn response per prompt, and all.

A beginner, trained from random weights on problems told by three teachers in turn (in words, in bare steps, and from
the end), meets 1,600 new problems that each of the three tells rightly. All arms train for the same 100 updates of 32
rows from the same weights at the same learning rate: on one response per prompt, drawn or GRAPE's, or on all three.
Seeds draw problems, weights and order.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study import Cell, Study
from experiments.teachers import NEW, TEACHERS, adapted, filled, new_problems, told

SELECT = "dataset.select={one: {_component_: cot_components.selectors."
ARMS = {
    "random": SELECT + "AtRandom, per_prompt: 1, seed: $seed}}",
    "grape": SELECT + "GRAPE, scores: $scores}}",
    "all": "dataset.select=null",
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of 100 updates."""
    path = cell.scratch / f"told_{cell.seed}.jsonl"
    rows = told(path, new_problems(cell.seed, NEW), seed=cell.seed, by=list(TEACHERS))
    data = [f"dataset.source={rows}", "dataset.max_rows=null"]
    return adapted(cell, *data, *filled([ARMS[cell.arm]], cell, data), "epochs=2", "max_steps_per_epoch=50")


STUDY = Study(
    name="grape",
    question="Of several responses, those that fit the model best?",
    about=__doc__,
    effect=("accuracy", "grape", "three teachers"),
    arms=tuple(ARMS),
    settings=("three teachers",),
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    seeds=8,
)
