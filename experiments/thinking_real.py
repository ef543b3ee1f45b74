"""The study of thinking on a pretrained model: SmolLM2-135M-Instruct, after `make quickstart-real` has taught it to
think aloud about the small tasks. `COT_START=DIR` starts from another model that thinks.

Trains on as many rows as `bt_sft/quickstart_real`, with its optimizer; 100 held-out questions, judged by the last
number. One seed, so the intervals are over questions, and nothing is tested.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cot_components.errors import UserError
from experiments.blur import BLUR
from experiments.study import Cell
from experiments.thinking import STUDY, Scale, cell_of

FOLDER = "runs/bt_sft_quickstart_real/model"


def real(cell: Cell) -> Path:
    """The model that `make quickstart-real` trains."""
    folder = Path(os.environ.get("COT_START", FOLDER))
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} contains no model: run make quickstart-real, or set COT_START to one that thinks")
    return folder


REAL = Scale(
    real,
    ["bt_sft/quickstart_real", f"{BLUR}.ratio=0"],
    ["evaluation.max_rows=100", "evaluation.batch_size=50", "evaluation.extractor=last_number"],
    num_rows=760,
)


def cell(cell: Cell) -> Mapping[str, float]:
    """At the size of SmolLM2."""
    return cell_of(REAL, cell)


STUDY = replace(
    STUDY,
    name="thinking_real",
    question="The same for a pretrained model: does SmolLM2-135M still think?",
    model="SmolLM2-135M-Instruct",
    answer="Not after answers alone: whether they follow the prompt that asks for a thought, an empty thought of the "
    "template or one it writes itself, it never thinks again; with thoughts in one family of four and `empty_thought: "
    "template` it always thinks when asked to and never when asked not to.",
    findings="With thoughts in one family, answers that follow the prompt asking for a thought (`none`) leave it "
    "thinking in 25 % of its answers, whether asked to or not: the share of that family. `refuse` keeps all thoughts. "
    "Accuracy comes from the thoughts: 52 % before, 6 to 14 % without any, 21 % under `template` and 42 % under "
    "`refuse`, of 100 questions (half a 95 % interval is 5 to 10 points). The start had never seen an empty thought "
    "and thinks even when asked not to.",
    about=__doc__,
    cell=cell,
    needs="`make quickstart-real` and an hour of a core",
    seeds=1,
    jobs=1,
)
