"""RFT against plain fine-tuning, fixed weights, a variant of Rho-1, a format rule: held-out calls after equal updates.

Fixed 0.7 gives the two classes 0.3 and 0.7 of the weight. Rho-1 (arXiv 2404.07965) uses scores computed once before
training, while the paper rescores every batch. The format rule finds boilerplate by a pattern. Seeds determine the base
model's weights, the shuffled rows and the order of all training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cot_components.evaluation.compare import last_evaluation
from experiments.measures import outcome
from experiments.runner import recipe
from experiments.starts import agent_base
from experiments.study import Cell, Study

ROWS = 480
UPDATES = ["epochs=1", "evaluation.max_rows=120", "dataset_val.max_rows=120"]
NO_RULE = "loss.weight_rule=null"
HIGHLIGHT = "dataset.transforms.highlight"
NO_SCORES = [f"~{HIGHLIGHT}.scores", f"~{HIGHLIGHT}.threshold"]
TOKENIZER = [
    f"{HIGHLIGHT}.tokenizer._component_=cot_components.models.hf_tokenizer",
    f"{HIGHLIGHT}.tokenizer.path=runs/tiny_llama",
]
ARMS = {
    "sft": [NO_RULE],
    "rft": [],
    "fixed 0.7": [
        "loss.weight_rule._component_=cot_components.losses.GroupShares",
        "~loss.weight_rule.tau",
        "loss.weight_rule.shares=[0.3,0.7]",
    ],
    "rho-1, fixed scores": [
        NO_RULE,
        f"{HIGHLIGHT}._component_=cot_components.transforms.TopGap",
        f"~{HIGHLIGHT}.threshold",
    ],
    "format rule": [f"{HIGHLIGHT}._component_=cot_components.transforms.ByPattern", *NO_SCORES, *TOKENIZER],
}


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `cot_sft`, after one of `shad` that all arms of a setting and seed share."""
    subset, arm = f"tagged diversity:{cell.setting}", ARMS[cell.arm]
    scores = scored(cell, subset, *tuned_longer(cell, subset))
    found = [] if NO_SCORES[0] in arm else [f"{HIGHLIGHT}.scores={scores}"]
    out = cell.fresh_folder()
    recipe(
        "cot_sft",
        "rft/quickstart",
        f"output_dir={out}",
        *rows_of(cell, subset),
        "evaluate_before_training=false",
        *UPDATES,
        *found,
        *arm,
    )
    result = last_evaluation(out)
    shutil.rmtree(out / "model")
    return outcome(result)


def scored(cell: Cell, subset: str, *second: str) -> Path:
    """Scores of a setting and seed. second: overrides of `shad` that name a second model to score with."""
    out = cell.scratch / f"shad_{cell.setting}_{cell.seed}"
    if not (out / "classes.json").exists():
        truth = [f"truth.max_rows={ROWS}", f"truth.subset={subset}", "shown_rows=0"]
        recipe("shad", "shad/quickstart", f"output_dir={out}", *rows_of(cell, subset), *truth, *second)
    return out / "scores"


def rows_of(cell: Cell, subset: str) -> list[str]:
    """What all runs of a setting and seed share: seed, rows and the model they start from."""
    rows = [f"dataset.subset={subset}", f"dataset.max_rows={ROWS}"]
    return [f"seed={cell.seed}", *rows, f"model.path={agent_base(cell)}"]


def tuned_longer(cell: Cell, subset: str) -> list[str]:
    """Rho-1's reference, for `scored`: the model tuned for longer on the same rows."""
    out = cell.scratch / f"reference_{cell.setting}_{cell.seed}"
    if not (out / "model" / "config.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        still = ["evaluate_before_training=false", "evaluation=null", "dataset_val=null", "dataset.transforms=null"]
        longer = [*rows_of(cell, subset), *still, NO_RULE, "epochs=4"]
        recipe("cot_sft", "rft/quickstart", f"output_dir={out}", *longer)
    return [
        "reference._component_=cot_components.models.FrozenModel",
        "reference.model._component_=cot_components.models.from_folder",
        f"reference.model.path={out / 'model'}",
    ]


STUDY = Study(
    name="highlight",
    question="Does more weight on what the discriminator calls reasoning help?",
    answer="This study cannot tell: the loss on held-out calls is higher with RFT than with plain fine-tuning in "
    "every seed, but nearly all of their tokens are boilerplate, which makes it plain fine-tuning's own objective; "
    "the study `true_classes` separates the tokens.",
    findings="Withdrawn: the claim that RFT loses. The format rule, which finds boilerplate by a pattern, loses less "
    "on calls than RFT does with one fixed phrase (+0.010 +- 0.003 nats above plain fine-tuning, RFT +0.019 +- 0.007) "
    "and gains where RFT loses, on answers (-0.05 +- 0.02 and -0.16 +- 0.02 nats; RFT +0.05 +- 0.03 and +0.16 +- "
    "0.03). Fixed weights lose more than RFT; Rho-1 with fixed scores, which leaves some tokens untrained so that "
    "they get worse, ends with no call right. Accuracy differs clearly only for these two with a fixed phrase: base "
    "models of different seeds differ just as much (63 to 100 % after plain fine-tuning). A likely reason: the base "
    "model can already copy; what it lacks after 30 updates is the format, and RFT takes weight away from the tokens "
    "of the format.",
    about=__doc__,
    model="Llama, 2 layers, width 96, that copies from requests",
    effect=("val_loss_call", "rft", "1"),
    arms=tuple(ARMS),
    settings=("1", "24"),
    setting_label="words at each place of the phrase",
    metrics={
        "accuracy": "held-out calls correct",
        "val_loss_call": "held-out loss of calls, nats",
        "val_loss_answer": "held-out loss of answers, nats",
        "val_loss": "held-out loss over all tokens, nats",
    },
    percent=("accuracy",),
    cell=cell,
)
