"""Keeps the committed parts of the quickstarts' runs: what README, figures and notebooks quote and plot.

    make quickstart && python -m experiments.keep runs        # keeps every run below that exists

Training logs, reports of the discriminator, and the scores of its first rows (those of all rows are too large to
commit), in a folder that `Highlight` reads like any other. For `make quickstart-real` also its first and last
evaluations: answers, and the loss of every token of some held-out rows.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from cot_components.data.rows.scores import open_scores
from cot_components.evaluation.saved import saved_evaluations
from cot_components.runs.layout import EVALUATIONS

LOGS = Path(__file__).parent / "logs"
TRAINED = (
    *("bt_sft_quickstart", "sft_baseline", "dft_baseline", "target_sft_quickstart"),
    *("icot_sft_quickstart", "icot_sft_no_cot", "icot_sft_explicit", "rft_sft", "rft_quickstart"),
)
PRETRAINED = "bt_sft_quickstart_real"
CLASSIFIED = ("shad_quickstart", "shad_diversity_4", "shad_diversity_24")
SCORED_ROWS = 48


def keep_record(run: Path, kept: Path, record: str) -> None:
    """A run's log or report, its config and versions."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in (record, "config.yaml", "versions.json"):
        shutil.copy(run / name, kept)


def keep_scores(run: Path, kept: Path, *, num_rows: int = SCORED_ROWS) -> None:
    """Scores of the first rows, as a folder that `Highlight` reads."""
    kept.mkdir(parents=True, exist_ok=True)
    scores = open_scores(str(run))
    stop = int(scores.row_start[num_rows])
    rows = {"ids": scores.ids[:num_rows], "row_start": scores.row_start[: num_rows + 1]}
    np.savez(kept / "rows.npz", **rows, row_hash=scores.row_hash[:num_rows])
    for name, column in scores.columns.items():
        np.save(kept / f"{name}.npy", column[:stop])
    num_scored = int((~np.isnan(scores.column("original")[:stop])).sum())
    (kept / "meta.json").write_text(json.dumps({**scores.meta, "num_scored": num_scored}, indent=1) + "\n")


def keep_answers(run: Path, kept: Path) -> None:
    """The first and the last evaluation of a run."""
    (kept / EVALUATIONS).mkdir(exist_ok=True)
    files = list(saved_evaluations(run).values())
    for path in (files[0], files[-1]):
        shutil.copy(path, kept / EVALUATIONS)


def main(folder: str) -> int | str:
    records = {**dict.fromkeys((*TRAINED, PRETRAINED), "log.jsonl"), **dict.fromkeys(CLASSIFIED, "classes.json")}
    there = [name for name, record in records.items() if (Path(folder) / name / record).exists()]
    for name in there:
        keep_record(Path(folder) / name, LOGS / name, records[name])
        print(f"kept: {LOGS / name}")
    if CLASSIFIED[0] in there:
        keep_scores(Path(folder) / CLASSIFIED[0] / "scores", LOGS / CLASSIFIED[0] / "scores")
    if PRETRAINED in there:
        keep_answers(Path(folder) / PRETRAINED, LOGS / PRETRAINED)
    return 0 if there else f"{folder} contains no run of a quickstart"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
