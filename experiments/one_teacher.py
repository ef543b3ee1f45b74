"""Is what GRAPE gains in the study `grape` the choice of each response, or the choice of a teacher?

There GRAPE takes the telling from the end for 94 to 99 % of the problems: it has the lowest loss per token. So here the
same beginner, problems and updates, with one of the three teachers for all problems; `three, drawn` is the arm "random"
of `grape`.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study import Cell, Study
from experiments.teachers import NEW, RATES, TEACHERS, adapted, new_problems, told, write_once


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of 100 updates."""
    path = cell.scratch / f"told_{cell.seed}.jsonl"
    rows = told(path, new_problems(cell.seed, NEW), seed=cell.seed, by=list(TEACHERS))
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    mine = cell.scratch / f"{cell.arm}_{cell.seed}.jsonl"
    write_once(mine, "".join(lines[list(TEACHERS).index(cell.arm) :: len(TEACHERS)]))
    data = [f"dataset.source={mine}", "dataset.max_rows=null"]
    return adapted(cell, *data, "epochs=2", "max_steps_per_epoch=50")


STUDY = Study(
    name="one_teacher",
    question="GRAPE takes nearly every response from one teacher: is it the teacher?",
    answer="Yes, and it is the wrong one: with every problem told from the end, which is nearly what GRAPE chooses, "
    "the model ends 18 +- 10 points below the same problems told plainly, in all of eight seeds.",
    findings="Told from the end 38 % are right, as with GRAPE (37 %); told plainly 56 %, in bare steps 52 %, in three "
    "ways at random 33 % (study `grape`). Each arm has its best of three learning rates: 1e-3 from the end, 3e-3 for "
    "the other two. The mean loss of a response's tokens did not say what it teaches.",
    about=__doc__,
    model="Llama, 2 layers, width 96, that has seen such problems four times",
    effect=("accuracy", "backwards", "one for all problems"),
    arms=tuple(TEACHERS),
    settings=("one for all problems",),
    setting_label="teachers",
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    rates=dict.fromkeys(TEACHERS, RATES),
    chosen_by="wrong",
    seeds=8,
)
