"""Does RFT learn the tokens that need reasoning, and at what cost? Held-out losses by true class.

The generator of the calls knows which tokens the request determines: these are reasoning, 6 in 100, all others
boilerplate. A mean over all tokens is plain fine-tuning's own objective and nearly all boilerplate, which is why the
study `highlight` cannot tell. Base model, discriminator, rows and learning rate are those of that study with one fixed
phrase; an update takes 16 of 480 rows, so 120 updates are four epochs. Shares gives the classes 0.3 and 0.7 of the
weight.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from threading import Lock

from cot_components.evaluation.compare import last_evaluation
from experiments.highlight import ARMS as HIGHLIGHT_ARMS
from experiments.highlight import HIGHLIGHT, UPDATES, rows_of, scored
from experiments.measures import CALL_METRICS, by_true_class, calls, outcome
from experiments.runner import recipe
from experiments.study import Cell, Study

SUBSET = "tagged diversity:1"
UPDATES_PER_EPOCH = 30
ARMS = {"sft": HIGHLIGHT_ARMS["sft"], "rft": HIGHLIGHT_ARMS["rft"], "shares": HIGHLIGHT_ARMS["fixed 0.7"]}
_ONE_AT_A_TIME = Lock()


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `cot_sft`; all arms and settings of a seed share the discriminator's scores."""
    with _ONE_AT_A_TIME:
        scores = scored(cell._replace(setting="all"), SUBSET)
    out = cell.fresh_folder()
    length = ["evaluate_before_training=false", *UPDATES, f"epochs={int(cell.setting) // UPDATES_PER_EPOCH}"]
    words = [f"output_dir={out}", *rows_of(cell, SUBSET), f"{HIGHLIGHT}.scores={scores}", *length, *ARMS[cell.arm]]
    recipe("cot_sft", "rft/quickstart", *words)
    result = last_evaluation(out)
    figures = {**by_true_class(out / "model", SUBSET, 240), **calls(result), **outcome(result)}
    shutil.rmtree(out)
    return figures


STUDY = Study(
    name="true_classes",
    question="Does RFT learn the tokens that need reasoning, and at what cost?",
    about=__doc__,
    model="Llama, 2 layers, width 96, that copies from requests",
    effect=("loss_reasoning", "rft", "30"),
    arms=tuple(ARMS),
    settings=("30", "120"),
    setting_label="updates",
    metrics=CALL_METRICS,
    percent=("accuracy", "readable", "right_if_readable"),
    cell=cell,
    seeds=8,
)
