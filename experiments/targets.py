"""Which target for which demonstrations: presets on clean and on mistaken ones, with a good and with a bad teacher.

The student has had a third of `make quickstart`'s training, the good teacher all of it; the bad teacher is the student
itself. Seeds determine the weights that both start from and the order of all training. A number in a thought has one
right value, the words around it have many: accuracy shows how a target affects the numbers, distinct wordings (the
share of sampled thoughts whose wording, without numbers and names, differs from all earlier ones) how it affects the
words.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from cot_components.evaluation.compare import last_evaluation
from experiments.measures import sampled_wordings
from experiments.runner import once, recipe
from experiments.starts import Start, student, teacher
from experiments.study import Cell, Study

LOSS = "loss=cot_components.losses."
ALONE = ["~loss.eta", "reference=null"]
ARMS = {
    "sft": [LOSS + "sft", *ALONE],
    "dft": [LOSS + "dft", *ALONE],
    "asft": [LOSS + "asft", "~loss.eta", "loss.kl_weight=0.1"],
    "distill": [LOSS + "distill", "~loss.eta"],
    "target 0.2": ["loss.eta=0.2"],
    "target 0.5": ["loss.eta=0.5"],
    "target 0.8": ["loss.eta=0.8"],
}
SETTINGS = {
    "mistaken, good teacher": ("mistaken", teacher),
    "clean, good teacher": ("plain", teacher),
    "mistaken, bad teacher": ("mistaken", student),
    "clean, bad teacher": ("plain", student),
}

METRICS = {
    "accuracy": "held-out answers correct",
    "wordings": "distinct wordings, sampled",
    "val_loss": "held-out loss over all tokens, nats",
}
PERCENT = ("accuracy", "wordings")


def cell(cell: Cell) -> Mapping[str, float]:
    """One run of `target_sft`."""
    subset, reference = SETTINGS[cell.setting]
    return train(cell, subset, *ARMS[cell.arm], reference=reference)


def train(cell: Cell, subset: str, *overrides: str, reference: Start = teacher) -> dict[str, float]:
    """Accuracy and held-out losses of the student after `target_sft` on demonstrations of one style.

    A cell that trains the same way, in this study or another, reuses the results without training.
    """
    settings = [f"dataset.subset={subset}", f"seed={cell.seed}", f"model.path={student(cell)}"]
    if ALONE[-1] not in overrides:
        settings.append(f"reference.model.path={reference(cell)}")
    settings.extend(overrides)

    def measure() -> dict[str, float]:
        out = cell.fresh_folder()
        still = ["evaluate_before_training=false", "evaluate_every_n_steps=null", f"output_dir={out}"]
        recipe("target_sft", "target_sft/quickstart", *still, *settings)
        result, distinct = last_evaluation(out), sampled_wordings(out)
        shutil.rmtree(out)
        return {"accuracy": result.answer_accuracy, "wordings": distinct, **result.losses}

    return once(cell, settings, measure)


STUDY = Study(
    name="targets",
    question="Which target for which demonstrations?",
    answer="Mistaken demonstrations need a good teacher, and which loss uses it matters little: with one, "
    "distillation ends 44 +- 20 points above SFT and Target-SFT 40 to 41 for every eta, without one nothing is clear, "
    "and on clean demonstrations nothing is clearly better than SFT.",
    findings="On mistaken demonstrations Target-SFT with an eta of 0.5 is at or below distillation with the same "
    "teacher in every seed (0, 4, 3, 5 and 3 points below), with 0.2 and 0.8 below in every seed. The teacher has "
    "seen correct versions of the very problems that are solved wrongly here, so it knows which are wrong, and this "
    "measures the teacher more than any loss. SFT ends near the share of demonstrations that are right, which is 40 "
    "%. Compared with SFT, Target-SFT gains 40 +- 17, 41 +- 20 and 41 +- 21 points with an eta of 0.2, 0.5 and 0.8, "
    "ASFT 22 +- 22. DFT, and every target whose teacher is the student itself, gain where the start is good and lose "
    "where it is not (DFT by seed: +23, -0, -22, -3 and +4); the study `dft` examines when. On clean demonstrations a "
    "bad teacher costs 38 +- 18 points with distillation and 25 +- 23 with an eta of 0.8. DFT halves the diversity of "
    "wordings, where many continuations are right (-20 +- 3 points on mistaken, -25 +- 3 on clean demonstrations); "
    "other targets change it by 3 points at most. Cells that train the same way (SFT and DFT have no teacher) share a "
    "run.",
    about=__doc__,
    model="Llama, 2 layers, width 96, that solves tasks now and then",
    effect=("accuracy", "target 0.5", "mistaken, good teacher"),
    arms=tuple(ARMS),
    settings=tuple(SETTINGS),
    setting_label="demonstrations",
    metrics=METRICS,
    percent=PERCENT,
    cell=cell,
)
