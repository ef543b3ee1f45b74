"""Does internalisation arrive with every seed when its pace goes by accuracy? Runs of `icot_sft/quickstart`.

A stage ends when 95 % of 500 validation products are right, read off without writing anything, or when its even share
of the 15,000 steps is spent. Training, validation and the 500 evaluated products share no pair of numbers. Bar, cap and
the restart of the learning-rate schedule were chosen on seeds 100, 101, 102 and 104, before seeds 0 to 9 ran once. The
same budget at the published pace, a token per epoch, is the study `internalisation`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cot_components.runs.log import read_log
from experiments.runner import recipe
from experiments.study import Cell, Study

ARMS = {"pace by accuracy": [], "no chain-of-thought": ["curriculum.start=all"]}


def cell(cell: Cell) -> Mapping[str, float]:
    """One whole run of the quickstart."""
    out = cell.fresh_folder()
    recipe("icot_sft", "icot_sft/quickstart", f"output_dir={out}", f"seed={cell.seed}", *ARMS[cell.arm])
    found = figures(out)
    shutil.rmtree(out)
    return found


def figures(out: Path) -> dict[str, float]:
    """Of a finished run: accuracy at the end, and steps until no row had a token of its thought left."""
    records = list(read_log(out))
    thinking = [record["step"] for record in records if "objective" in record and record["thought_tokens"] > 0]
    accuracy = [record["answer_accuracy"] for record in records if "answer_accuracy" in record][-1]
    return {"accuracy": accuracy, "all_gone": max(thinking, default=-1) + 1}


METRICS = {"accuracy": "right without a step", "all_gone": "steps until the last token was gone"}
STUDY = Study(
    name="arrival",
    question="Does internalisation arrive with every seed?",
    about=__doc__,
    answer="Yes: all of ten seeds end at 99.2 % or more, where the published pace arrives with three of five; without "
    "ever seeing a step the same model ends at 17 to 29 % (three seeds).",
    findings="The last token leaves after 9,600 to 12,700 of the 15,000 steps. The first two leave as soon as the "
    "steps are learnt, the next five mostly at their share of the run, below the bar. On the seeds that chose the "
    "settings, restarting the learning-rate schedule with each stage ended at 99.4 and 99.8 %, one schedule over the "
    "whole run at 88.0 and 93.2 % (seeds 100 and 101).",
    model="GPT-2, 2 layers, width 64, random weights",
    arrives={"accuracy": 0.95},
    effect=("accuracy", "no chain-of-thought", "2x2"),
    arms=tuple(ARMS),
    settings=("2x2",),
    setting_label="digits",
    metrics=METRICS,
    percent=("accuracy",),
    cell=cell,
    seeds=10,
)
