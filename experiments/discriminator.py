"""Errors of the shuffle-aware discriminator against the diversity of the boilerplate, up to the point where it breaks.

Diversity is the number of words to choose from at each position of the phrase before a call. Seeds determine the base
model's weights, the shuffled rows and the order of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from experiments.runner import recipe
from experiments.starts import agent_base
from experiments.study import Cell, Study


def cell(cell: Cell) -> Mapping[str, float]:
    """The classes at the paper's threshold 0 and at 0.001 nats, both from the scores of one run of `shad`."""
    out = cell.fresh_folder()
    figures: dict[str, float] = {}
    for name, threshold in (("at_zero", "0"), ("", "0.001")):
        recipe(
            "shad",
            "shad/quickstart",
            f"output_dir={out}",
            f"seed={cell.seed}",
            f"threshold={threshold}",
            f"at_least={cell.arm.split()[0]}",
            f"dataset.subset=tagged diversity:{cell.setting}",
            "dataset.max_rows=800",
            "shown_rows=0",
            f"model.path={agent_base(cell)}",
        )
        report = json.loads((out / "classes.json").read_text())
        figures |= {f"{figure}{name and '_'}{name}": report[figure] for figure in ("error_rate", "recall")}
    return figures


STUDY = Study(
    name="discriminator",
    question="When does the shuffle-aware discriminator break?",
    answer="When it is tuned on too few shuffled rows; diverse phrases add to the error but break it only in "
    "combination with that.",
    findings="With 256 rows and a threshold of a thousandth of a nat, the error grows from 0.3 % with one fixed "
    "phrase to 2.1 % with 24 words at each position, below the 3 % of the paper's manual check. With 64 rows it is 4 "
    "to 9 %, with 16 it is 21 to 24 %; calling everything boilerplate would give 5.4 to 5.6 %. Boilerplate is "
    "mistaken for reasoning, while the share of reasoning found hardly changes. With the paper's threshold of zero, "
    "256 rows give 3.6 to 8.3 %, above 3 % in every setting: where both models are certain of a token, chance "
    "decides.",
    about=__doc__,
    model="Llama, 2 layers, width 96, that copies from requests",
    effect=("error_rate", "64 shuffled rows", "1"),
    arms=("256 shuffled rows", "64 shuffled rows", "16 shuffled rows"),
    settings=("1", "2", "4", "8", "24"),
    setting_label="words at each place of the phrase",
    metrics={
        "error_rate": "wrong tokens, line at 0.001 nats",
        "error_rate_at_zero": "wrong tokens, line at 0",
        "recall": "reasoning found, line at 0.001 nats",
    },
    percent=("error_rate", "error_rate_at_zero", "recall"),
    cell=cell,
    seeds=3,
)
