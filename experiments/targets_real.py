"""Does Target-SFT beat distillation with the same teacher? SmolLM2-135M, demonstrations of which 30 % are mistaken.

The model starts after 20 steps on correctly solved small problems, the teacher after 150; both are the same for all
seeds, which determine the rows and their order. Neither has seen the problems. CPU size: 40 steps of 512 tokens, three
arms, 100 questions, one learning rate. GPU size: 120 steps, 500 questions, more arms and shares of mistaken
demonstrations, each arm at its best of three learning rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments.real import (
    CPU,
    GPU_RATES,
    NO_BLUR,
    ON_GPU,
    Size,
    figures,
    from_model,
    good,
    need_signal,
    taught,
    train,
)
from experiments.screening import STUDY as SCREENING
from experiments.starts import unseen
from experiments.study import Cell, Study

LOSS = "loss=cot_components.losses."
TEACHER = [
    "reference._component_=cot_components.models.FrozenModel",
    "reference.model._component_=cot_components.models.from_folder",
]
ARMS = {
    "sft": [LOSS + "sft"],
    "distill": [LOSS + "distill", *TEACHER],
    "target 0.5": [LOSS + "target_sft", "loss.eta=0.5", *TEACHER],
    "dft": [LOSS + "dft"],
    "asft": [LOSS + "asft", "loss.kl_weight=0.1", *TEACHER],
    "hybrid_distill 0.5": [LOSS + "hybrid_distill", "loss.teacher_weight=0.5", *TEACHER],
    "target 0.2": [LOSS + "target_sft", "loss.eta=0.2", *TEACHER],
    "target 0.8": [LOSS + "target_sft", "loss.eta=0.8", *TEACHER],
}
STYLES = {"0 %": ["plain"], "30 %": ["mistaken", "plain"], "60 %": ["mistaken"]}
"""In the style `mistaken`, six of ten demonstrations are mistaken."""


def trained(cell: Cell, size: Size) -> dict[str, float]:
    """One run of `target_sft` from the taught model."""
    need_signal(SCREENING, "problems", "taught")
    rows = unseen(cell, 10 * size.steps, *STYLES[cell.setting])
    arm = list(ARMS[cell.arm])
    if TEACHER[0] in arm:
        arm.append(f"reference.model.path={good(cell)}")
    return figures(train(cell, size, *from_model(taught(cell)), NO_BLUR, *rows, *arm))


def cell(cell: Cell) -> Mapping[str, float]:
    """At CPU size."""
    return trained(cell, CPU)


def gpu_cell(cell: Cell) -> Mapping[str, float]:
    """At GPU size."""
    return trained(cell, ON_GPU)


STUDY = Study(
    name="targets_real",
    question="On SmolLM2-135M, does Target-SFT beat distillation with the same teacher?",
    about=__doc__,
    model="SmolLM2-135M-Instruct",
    effect=("accuracy", "target 0.5", "30 %"),
    arms=("distill", "sft", "target 0.5"),
    settings=("30 %",),
    setting_label="mistaken demonstrations",
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    seeds=8,
    jobs=1,
    needs="a free core for two to three hours",
)
GPU = replace(
    STUDY,
    name="targets_real_gpu",
    question="The same on a GPU, with more arms and a learning rate per arm?",
    arms=("distill", *(arm for arm in ARMS if arm != "distill")),
    settings=tuple(STYLES),
    rates=dict.fromkeys(ARMS, GPU_RATES),
    cell=gpu_cell,
    needs="a GPU",
)
