"""Does blur pay where the same rows come again and again? Plain fine-tuning, one mask for all epochs, one per epoch.

A model that solves the tasks now and then (an epoch of `make quickstart`) meets 400 problems that it has not seen, for
1, 8 or 32 epochs of 13 steps of 32 rows. Arms of a setting take the same number of updates at the same learning rate,
which was not searched. Half of every thought is blurred. With one epoch the two masks are the same one. Seeds draw the
start's weights, the problems and their order; the gap is the held-out loss less that on the trained rows, nothing
blurred in either.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from cot_components.evaluation.compare import last_evaluation
from experiments.blur import BLUR, adapted
from experiments.measures import outcome, scored
from experiments.runner import recipe
from experiments.starts import student, unseen
from experiments.study import Cell, Study

CONFIG = "bt_sft/quickstart"
ROWS = 400
ARMS = {
    "sft": [f"{BLUR}.ratio=0"],
    "blur once": [f"{BLUR}.ratio=0.5", f"{BLUR}.redraw=once"],
    "blur redrawn": [f"{BLUR}.ratio=0.5"],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `bt_sft`, then the loss on the rows it was trained on."""
    out, rows = cell.fresh_folder(), unseen(cell, ROWS, "plain")
    short = ["optimizer.lr=1e-3", "lr_scheduler.num_warmup_steps=10", f"epochs={cell.setting}", f"seed={cell.seed}"]
    still = ["evaluate_before_training=false", "evaluate_every_n_steps=null", f"output_dir={out}"]
    recipe("bt_sft", CONFIG, *rows, *short, *still, *adapted(student(cell)), *ARMS[cell.arm])
    result, trained = last_evaluation(out), scored(out / "model", "bt_sft", CONFIG, *rows).loss()
    shutil.rmtree(out)
    gap = result.losses["val_loss"] - trained
    return {"gap": gap, "trained": trained, **outcome(result)}


STUDY = Study(
    name="repetition",
    question="Does blur pay where the same rows come again and again?",
    about=__doc__,
    model="Llama, 2 layers, width 96, that solves tasks now and then",
    effect=("accuracy", "blur once", "32"),
    arms=tuple(ARMS),
    settings=("1", "8", "32"),
    setting_label="epochs",
    metrics={
        "accuracy": "held-out answers correct",
        "gap": "held-out loss less that on the trained rows, nats",
        "trained": "loss on the trained rows, nats",
        "val_loss": "held-out loss over all tokens, nats",
    },
    percent=("accuracy",),
    cell=cell,
    seeds=8,
)
