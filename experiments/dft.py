"""When does DFT help? Its gain over plain fine-tuning against how probable the model finds the data before training.

One run of `make quickstart` per seed is taken after 100, 200, 400 and 1,200 of its steps: four starts, from weak to
strong. Each is trained for 50 steps of 32 rows on 1,600 unseen problems, solved correctly (plain) or with an answer one
too high in six of ten (mistaken), with SFT or with DFT at the same learning rate, which was not searched. The
probability is the mean over all tokens of thoughts and answers, as `cot audit CONFIG --model FOLDER` measures it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cot_components.evaluation.compare import last_evaluation
from experiments.blur import BLUR, adapted
from experiments.measures import outcome, scored
from experiments.runner import once, recipe
from experiments.starts import QUIET, once_trained, unseen
from experiments.study import Cell, Study

CONFIG = "bt_sft/quickstart"
ROWS = 1600
STEPS = (100, 200, 400, 1200)
ARMS = {"sft": [], "dft": ["loss=cot_components.losses.dft"]}
SETTINGS = {f"{style}, {steps} steps": (style, steps) for style in ("plain", "mistaken") for steps in STEPS}


def start(cell: Cell, steps: int) -> Path:
    """The model of `make quickstart` after this many steps."""
    saved = [f"save_every_n_steps={STEPS[0]}", f"keep_checkpoints={STEPS[-1] // STEPS[0]}"]
    model = once_trained(cell, "on_the_way", "bt_sft", CONFIG, *QUIET, *saved)
    return model if steps == STEPS[-1] else model.parent / "checkpoints" / f"step_{steps:08d}" / "hf"


def cell(cell: Cell) -> Mapping[str, float]:
    """One short run; both arms share the probability measured before it."""
    style, steps = SETTINGS[cell.setting]
    model, rows, out = start(cell, steps), unseen(cell, ROWS, style), cell.fresh_folder()

    def probability() -> dict[str, float]:
        found = scored(model, "bt_sft", CONFIG, *rows)
        return {"probability": float(np.exp(-found.nll[found.where]).mean())}

    before = once(cell, [str(model), *rows], probability)
    short = ["optimizer.lr=1e-3", "lr_scheduler.num_warmup_steps=10", "epochs=1", f"{BLUR}.ratio=0"]
    still = ["evaluate_before_training=false", "evaluate_every_n_steps=null", f"output_dir={out}", f"seed={cell.seed}"]
    recipe("bt_sft", CONFIG, *rows, *short, *still, *adapted(model), *ARMS[cell.arm])
    result = last_evaluation(out)
    shutil.rmtree(out)
    return {**before, **outcome(result)}


STUDY = Study(
    name="dft",
    question="When does DFT help?",
    about=__doc__,
    model="Llama, 2 layers, width 96, weak to strong",
    effect=("accuracy", "dft", "mistaken, 1200 steps"),
    arms=tuple(ARMS),
    settings=tuple(SETTINGS),
    setting_label="demonstrations, training before",
    metrics={
        "accuracy": "held-out answers correct",
        "probability": "mean probability of the data before training",
        "val_loss": "held-out loss over all tokens, nats",
    },
    against="probability",
    percent=("accuracy",),
    cell=cell,
    seeds=8,
)
