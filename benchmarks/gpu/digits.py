"""4 x 4 digit multiplication without a written step, from random weights: `icot_sft/scratch_2L4H_4x4` as it ships.

Trained until the part is told to stop, and from its checkpoint at the next call; the accuracy is that of the last
evaluation, on pairs of numbers that no training set holds. Published: 1.00 after 13 epochs (arXiv 2510.00184).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu import Unfinished
from benchmarks.gpu.recipes import run_recipe
from benchmarks.report import Row
from cot_components.runs.log import read_log

PUBLISHED = "1.00 (arXiv 2510.00184)"
SIZES = {
    "cuda": ("num_workers=4", "save_every_minutes=2"),
    "tiny": (
        "dataset.num_rows=64",
        "epochs=2",
        "num_workers=0",
        "curriculum.per_epoch=40",
        "model.embed_dim=32",
        "evaluation.max_rows=4",
        "evaluation.max_new_tokens=8",
        "evaluate_every_n_steps=2",
        "log_every_n_steps=1",
    ),
}


def rows(device: str, size: str) -> Iterator[Row]:
    folder = Path(f"digits_4x4_{device}_{size}")
    code = run_recipe("icot_sft", "icot_sft/scratch_2L4H_4x4", f"output_dir={folder}", f"device={device}", *SIZES[size])
    records = read_log(folder / "log.jsonl")
    steps = max((int(record["step"]) for record in records if "step" in record), default=0)
    stage = max((int(record["stage"]) for record in records if "stage" in record), default=0)
    accuracy = [record["answer_accuracy"] for record in records if "answer_accuracy" in record]
    speed = [record["run_tokens_per_second"] for record in records if "run_tokens_per_second" in record]
    note = f"{steps} steps, {stage} thought tokens removed"
    if speed:
        note += f", {speed[-1]:,.0f} tokens/s"
    gate = 0.99 if code == 0 and size != "tiny" else None
    if accuracy:
        yield Row("4x4 digits, accuracy", PUBLISHED, "", float(accuracy[-1]), 1.0, gate, at_most=False, note=note)
    else:
        yield Row("4x4 digits, accuracy", PUBLISHED, "", note=f"{note}; not evaluated yet")
    if code:
        raise Unfinished
