"""Does it pay to train on the responses that fit the model? GRAPE against one drawn response per prompt, and all.

A beginner, trained from random weights on problems told by three teachers in turn (in words, in bare steps, and from
the end), meets 1,600 new problems that each of the three tells rightly. All arms train for the same 100 updates of 32
rows from the same weights, each at its best of three learning rates: on one response per prompt, drawn or GRAPE's, or
on all three.
Seeds draw problems, weights and order.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study import Cell, Study
from experiments.teachers import NEW, RATES, TEACHERS, adapted, filled, new_problems, told

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
    answer="Yes against a drawn response, by 4 +- 2 points and in seven of eight seeds; but GRAPE chooses a teacher, "
    "and here the worst of the three.",
    findings="Before, the beginner answers 19 to 30 % (four seeds). All arms take the lowest rate, 3e-4. All three "
    "responses to every problem teach no more than a drawn one. GRAPE takes 94 to 99 % of its responses from one "
    "teacher, who tells from the end, and whose tokens have the lowest mean loss (0.09 to 0.14 nats, against 0.16 to "
    "0.23). One teacher for all problems beats three drawn, and either of the others would have taught much more "
    "(study `one_teacher`). The loss on held-out problems, told plainly, is higher with GRAPE: the model has learnt to "
    "tell from the end.",
    about=__doc__,
    model="Llama, 2 layers, width 96, that has seen such problems four times",
    effect=("accuracy", "grape", "three teachers"),
    arms=tuple(ARMS),
    settings=("three teachers",),
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    rates=dict.fromkeys(ARMS, RATES),
    chosen_by="wrong",
    seeds=8,
)
