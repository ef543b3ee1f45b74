"""Half fine-tuning (HFT, arXiv 2404.18466) against full: what a model forgets while it learns something new.

A small Llama learns sums of three numbers in words (100 steps of 16 rows, from random weights), then the multiplication
table in digits (180 steps of 16 rows). Forgotten is how much the loss on held-out sums rises in the second part; learnt
is the share of 80 products of the table that are right. Half: a random half of each category of weights is trained, in
one round, drawn by the seed. Half rate: all weights at half the learning rate, which also forgets less and so is the
baseline to beat. All arms of a seed start from the same weights and see the same rows. Sizes and the rate of 4e-3 were
set on a seed that is not used here; no rate was searched.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from cot_components.evaluation.compare import last_evaluation
from experiments.blur import adapted
from experiments.runner import recipe
from experiments.starts import once_trained
from experiments.study import Cell, Study

RATE = 4e-3
PLAIN = ["~dataset.transforms", "batch_size=16", "log_blurred_every=0", "lr_scheduler.num_warmup_steps=10"]
OLD = ["dataset.subset=chain", "dataset.max_rows=1600", "epochs=1"]
HELD_OUT = ["dataset_val.source=generated", "dataset_val.subset=chain", "dataset_val.max_rows=120"]
NEW = [
    *("dataset.source=generated_multiplication", 'dataset.subset="1"', "dataset.max_rows=480", "epochs=6"),
    *("evaluation.source=generated_multiplication", 'evaluation.subset="1"', "evaluation.split=train"),
    *("evaluation.extractor=gsm8k", "evaluation.max_rows=80", "evaluation.max_new_tokens=24", f"optimizer.lr={RATE}"),
]
STILL = ["evaluate_before_training=false", "evaluate_every_n_steps=null", "evaluation=null"]
ARMS = {
    "full": [],
    "half": ["trainable._component_=cot_components.trainable.Half", "trainable.seed=${seed}"],
    "full, half rate": [f"optimizer.lr={RATE / 2}"],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `cot_sft` on the new task, from a model trained on the old one."""
    start = once_trained(cell, "sums", "cot_sft", "bt_sft/quickstart", *PLAIN, *HELD_OUT, *STILL, *OLD)
    out = cell.fresh_folder()
    own = [f"output_dir={out}", f"seed={cell.seed}", *STILL[:2], *ARMS[cell.arm]]
    recipe("cot_sft", "bt_sft/quickstart", *adapted(start), *PLAIN, *HELD_OUT, *NEW, *own)
    before, after = last_evaluation(start.parent), last_evaluation(out)
    shutil.rmtree(out)
    assert after.answer_accuracy is not None
    figures = {"before": before.losses["val_loss"], "after": after.losses["val_loss"]}
    return {"forgotten": figures["after"] - figures["before"], "learnt": after.answer_accuracy, **figures}


STUDY = Study(
    name="half",
    question="Does half fine-tuning forget less?",
    answer="Not clearly here, while half the learning rate, which costs nothing, forgets less in every seed.",
    findings="Half fine-tuning forgets 0.9 +- 1.3 nats less than full (p = 0.13; by seed from 3.2 less to 1.2 more), "
    "all weights at half the rate 1.6 +- 0.9 less (p = 0.008). 24 +- 5 % of the table are right after half "
    "fine-tuning, 17 +- 4 % after full and 16 +- 4 % at half the rate (p = 0.09 and 0.56). Every arm loses the sums: "
    "their loss rises from 0.8 nats to between 6 and 8, so this shows how fast a small model forgets, not what little "
    "a large one may keep. Each seed trains a different half, 57 % of all weights including the embedding.",
    about=__doc__,
    model="Llama, 2 layers, width 96, random weights",
    effect=("forgotten", "half", "sums"),
    arms=tuple(ARMS),
    settings=("sums",),
    setting_label="known before",
    metrics={"forgotten": "rise of the loss on held-out sums, nats", "learnt": "products of the table right"},
    percent=("learnt",),
    cell=cell,
    seeds=8,
)
