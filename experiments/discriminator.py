"""Errors of the shuffle-aware discriminator against the diversity of the boilerplate, down to where it breaks.

Seeds draw the base model's weights, the rows that are shuffled and the order of the tuning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from experiments.runner import Cell, Study, recipe
from experiments.starts import agent_base


def cell(cell: Cell) -> Mapping[str, float]:
    """The classes at threshold 0 (the paper's) or at a small one; both from the scores of one run of `shad`."""
    out = cell.scratch / f"{cell.setting}_{cell.seed}"
    recipe(
        "shad",
        "shad/quickstart",
        f"output_dir={out}",
        f"seed={cell.seed}",
        f"threshold={cell.arm.split()[-1]}",
        f"dataset.subset=tagged diversity:{cell.setting}",
        "dataset.max_rows=800",
        "shown_rows=0",
        f"checkpointer.checkpoint_dir={agent_base(cell)}",
    )
    report = json.loads((out / "classes.json").read_text())
    return {name: report[name] for name in ("error_rate", "recall")}


STUDY = Study(
    name="discriminator",
    question="When does the shuffle-aware discriminator break?",
    arms=("threshold 0", "threshold 0.001"),
    settings=("1", "2", "4", "8", "16", "24"),
    setting_label="words at each place of the phrase",
    metrics={"error_rate": "wrong tokens", "recall": "reasoning found"},
    percent=("error_rate", "recall"),
    cell=cell,
    seeds=3,
)
