"""Does RFT get arguments right at equal format? SmolLM2-135M on generated calls whose true classes are known.

The model starts after 20 steps on calls, most of them in other formats. Classes come from the generator, so this tests
the weights, not how well a discriminator finds classes. Seeds determine the order of rows. CPU size: 20 steps of 512
tokens, three arms. GPU size: 30, 120 and 480 steps, taus of 2, 3 and 5, a format rule, each arm at its best of three
learning rates.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np

from cot_components.cli.shipped import recipe_for
from cot_components.data.generated.dialogues import agent_truth
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.training.recipe import read_config
from experiments.measures import CALL_METRICS, by_true_class, calls, outcome
from experiments.real import CALLS, CONFIG, CPU, GPU_RATES, ON_GPU, Size, caller, from_model, need_signal, train
from experiments.screening import STUDY as SCREENING
from experiments.study import Cell, Study

SUBSET, HELD_OUT = "tagged", 100
ROWS_PER_STEP = 7
"""More than fit into 512 tokens."""
DATA = [
    *("dataset.source=generated_agents", f"dataset.subset={SUBSET}"),
    *("dataset.transforms.blur=null", f"dataset_val={{split: held_out, max_rows: {HELD_OUT}, transforms: null}}"),
]
CLASSES = "dataset.transforms.highlight"
RULE = "loss.weight_rule._component_=cot_components.losses."
SHARES = [RULE + "GroupShares", "loss.weight_rule.shares=[0.5,0.5]"]
PATTERN = [f"{CLASSES}._component_=cot_components.transforms.ByPattern", f"{CLASSES}.tokenizer=${{tokenizer}}"]
ARMS = {
    "sft": [],
    "shares 0.5": SHARES,
    **{f"rft tau {tau}": [RULE + "GroupSoftmax", f"loss.weight_rule.tau={tau}"] for tau in (3, 2, 5)},
    "format rule": [RULE + "GroupSoftmax", "loss.weight_rule.tau=3", *PATTERN],
}
_ONE_AT_A_TIME = Lock()


def known_classes(cell: Cell, num_rows: int) -> Path:
    """True classes as scores that `Highlight` reads: those of reasoning are 1 above the loss before shuffling."""
    from cot_components.tools.score import plain_data

    out = cell.scratch.parent / "starts" / f"smollm2_classes_{num_rows}"
    words = ["--config", CONFIG, f"output_dir={out}", *from_model(caller(cell)), *DATA, f"dataset.max_rows={num_rows}"]
    chosen = recipe_for(CONFIG, asked="cot_sft")
    with _ONE_AT_A_TIME:
        data = plain_data(read_config(chosen.main, words, chosen.supplies))
        classes = agent_truth(data.rows, data.chat.tokenizer.decode, subset=SUBSET, max_rows=num_rows)
        of_row = dict(zip(data.rows.ids.tolist(), np.split(classes, data.rows.row_start[1:-1]), strict=True))

        def score(flat: Flat) -> dict[str, np.ndarray]:
            truth = np.concatenate([of_row[row] for row in flat.ids.tolist()]).astype(np.float32)
            return {"original": np.zeros_like(truth), "shuffled": truth}

        columns = {"original": Column("zero"), "shuffled": Column("true class")}
        score_rows(data.rows, score, out, columns=columns, tokenizer=data.chat.tokenizer.fingerprint())
    return out


def trained(cell: Cell, size: Size) -> dict[str, float]:
    """One run of `rft` from the model that writes calls."""
    need_signal(SCREENING, "calls", "taught")
    start, arm, steps = caller(cell), ARMS[cell.arm], int(cell.setting)
    classes = known_classes(cell, ROWS_PER_STEP * steps)
    known = [f"{CLASSES}._component_=cot_components.transforms.Highlight", f"{CLASSES}.scores={classes}"]
    words = [*DATA, f"dataset.max_rows={ROWS_PER_STEP * steps}", *CALLS, *arm]
    if PATTERN[0] not in arm:
        words.extend(known)
    out, result = train(cell, size._replace(steps=steps), *from_model(start), *words)
    same = [f"tokenizer.path={start}", f"model.path={start}"]
    found = {**by_true_class(out / "model", SUBSET, HELD_OUT, *same), **calls(result), **outcome(result)}
    shutil.rmtree(out)
    return found


def cell(cell: Cell) -> Mapping[str, float]:
    """At CPU size."""
    return trained(cell, CPU)


def gpu_cell(cell: Cell) -> Mapping[str, float]:
    """At GPU size."""
    return trained(cell, ON_GPU)


STUDY = Study(
    name="highlight_real",
    question="On SmolLM2-135M, does RFT get arguments right at equal format?",
    about=__doc__,
    model="SmolLM2-135M-Instruct",
    effect=("loss_reasoning", "rft tau 3", "20"),
    arms=("sft", "shares 0.5", "rft tau 3"),
    settings=("20",),
    setting_label="steps",
    metrics=CALL_METRICS,
    percent=("accuracy", "readable", "right_if_readable"),
    cell=cell,
    seeds=8,
    jobs=1,
    needs="a free core for two hours",
)
GPU = replace(
    STUDY,
    name="highlight_real_gpu",
    question="The same on a GPU, with longer training and a learning rate per arm?",
    arms=tuple(ARMS),
    settings=("30", "120", "480"),
    effect=("loss_reasoning", "rft tau 3", "30"),
    rates=dict.fromkeys(ARMS, GPU_RATES),
    cell=gpu_cell,
    needs="a GPU",
)
