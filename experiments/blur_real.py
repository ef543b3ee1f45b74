"""Does a blur drawn once help a pretrained model that learns from another teacher? SmolLM2-135M.

The model starts after 20 steps on small, plainly explained problems; the rows are problems it has not seen, explained
at length by a teacher who begins at the end. Seeds determine the rows and their order. Half the batch has about as many
labels as half of every thought blurred. CPU size: 40 steps of 512 tokens, three arms, one learning rate. GPU size: 120
steps, more arms, each at its best of three learning rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments.blur import BLUR
from experiments.real import (
    CPU,
    GPU_RATES,
    NO_BLUR,
    ON_GPU,
    TOKENS,
    Size,
    figures,
    from_model,
    need_signal,
    taught,
    train,
)
from experiments.screening import STUDY as SCREENING
from experiments.starts import unseen
from experiments.study import Cell, Study

HALF = f"{BLUR}.ratio=0.5"
MASKED = "_component_: cot_components.transforms.Corrupt, ratio: 0.4, tokenizer: '${tokenizer}'"
ARMS = {
    "sft": [NO_BLUR],
    "half batch": [NO_BLUR, f"packed_tokens={TOKENS // 2}"],
    "blur once": [HALF, f"{BLUR}.redraw=once"],
    "blur redrawn": [HALF],
    "half weight": [
        NO_BLUR,
        "dataset.transforms.weights={_component_: cot_components.transforms.ByRole, factors: {thought: 0.5}}",
    ],
    "masked input": [NO_BLUR, f"dataset.transforms.masked={{{MASKED}}}"],
}


def trained(cell: Cell, size: Size, rows: int, epochs: int = 1) -> dict[str, float]:
    """One run of `bt_sft` from the taught model."""
    need_signal(SCREENING, "problems", "taught")
    told = [*unseen(cell, rows, "verbose"), f"epochs={epochs}", "evaluation.max_new_tokens=130"]
    return figures(train(cell, size, *from_model(taught(cell)), *told, *ARMS[cell.arm]))


def cell(cell: Cell) -> Mapping[str, float]:
    """At CPU size."""
    return trained(cell, CPU, 400)


def gpu_cell(cell: Cell) -> Mapping[str, float]:
    """At GPU size."""
    return trained(cell, ON_GPU, 1200)


STUDY = Study(
    name="blur_real",
    question="On SmolLM2-135M, does a blur drawn once help with another teacher's thoughts?",
    about=__doc__,
    model="SmolLM2-135M-Instruct",
    effect=("accuracy", "blur once", "another teacher"),
    arms=("sft", "half batch", "blur once"),
    settings=("another teacher",),
    setting_label="traces",
    metrics={"accuracy": "held-out answers correct", "val_loss": "held-out loss over all tokens, nats"},
    percent=("accuracy",),
    cell=cell,
    seeds=8,
    jobs=1,
    needs="a free core for two to three hours",
)
GPU = replace(
    STUDY,
    name="blur_real_gpu",
    question="The same on a GPU, with longer training and a learning rate per arm?",
    arms=tuple(ARMS),
    rates=dict.fromkeys(ARMS, GPU_RATES),
    cell=gpu_cell,
    needs="a GPU",
)
