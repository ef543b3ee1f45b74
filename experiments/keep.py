"""Keeps the committed parts of the quickstarts' runs: what README, figures and notebooks quote and plot.

    make quickstart && python -m experiments.keep runs        # keeps every run below that exists

Training logs, reports of the discriminator, and the scores of its first rows (those of all rows are too large to
commit), in a folder that `Highlight` reads like any other. For `make quickstart-real` also its answers before and
after, and the loss of every token of some held-out rows before and after (no weights).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.scores import open_scores
from cot_components.datasets import reasoning_dataset
from cot_components.evaluation.saved import saved_evaluations
from cot_components.models import adapt, from_folder, hf_tokenizer, logits
from cot_components.runs.layout import EVALUATIONS
from cot_components.runs.same_config import read_config

LOGS = Path(__file__).parent / "logs"
TRAINED = (
    *("bt_sft_quickstart", "sft_baseline", "dft_baseline", "target_sft_quickstart"),
    *("icot_sft_quickstart", "icot_sft_no_cot", "icot_sft_explicit", "rft_sft", "rft_quickstart"),
)
PRETRAINED = "bt_sft_quickstart_real"
CLASSIFIED = ("shad_quickstart", "shad_diversity_4", "shad_diversity_24")
SCORED_ROWS = 48
READ_ROWS = 4


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


def keep_token_losses(run: Path, kept: Path, *, start: Path) -> None:
    """The ids of some held-out rows, and the loss of each token in nats, before and after the run."""
    data = reasoning_dataset(hf_tokenizer(str(start)), source="generated", split="held_out", max_rows=READ_ROWS)
    losses = {"before": token_losses(start, data), "after": token_losses(run / "model", data)}
    rows = [
        {"tokens": data.rows.flat([i]).tokens.tolist(), **{name: found[i] for name, found in losses.items()}}
        for i in range(READ_ROWS)
    ]
    (kept / "token_losses.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def token_losses(folder: Path, data: ReasoningDataset) -> list[list[float]]:
    """Loss of every token of each row, in nats to four digits; 0 for the first, which is not predicted."""
    network, found = adapt(from_folder(path=str(folder), quiet=True)).eval(), []
    for i in range(len(data.rows)):
        tokens = torch.from_numpy(data.rows.flat([i]).tokens).long()
        nll = F.cross_entropy(logits(network, tokens[None])[0, :-1], tokens[1:], reduction="none")
        found.append([0.0, *(round(value, 4) for value in nll.tolist())])
    return found


def main(folder: str) -> int | str:
    records = {**dict.fromkeys((*TRAINED, PRETRAINED), "log.jsonl"), **dict.fromkeys(CLASSIFIED, "classes.json")}
    there = [name for name, record in records.items() if (Path(folder) / name / record).exists()]
    for name in there:
        keep_record(Path(folder) / name, LOGS / name, records[name])
        print(f"kept: {LOGS / name}")
    if CLASSIFIED[0] in there:
        keep_scores(Path(folder) / CLASSIFIED[0] / "scores", LOGS / CLASSIFIED[0] / "scores")
    if PRETRAINED in there:
        run, kept = Path(folder) / PRETRAINED, LOGS / PRETRAINED
        keep_answers(run, kept)
        keep_token_losses(run, kept, start=Path(read_config(run)["model"]["path"]))
    return 0 if there else f"{folder} contains no run of a quickstart"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
