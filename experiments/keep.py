"""What notebook 4 draws of `make quickstart-rft`: reports of the discriminator, and the scores of its first rows.

    make quickstart-rft && python -m experiments.keep runs

The scores of all rows are too large to commit; those kept are a folder that `Highlight` reads like any other.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from cot_components.data.scores import open_scores

LOGS = Path(__file__).parent / "logs"
REPORTS = ("shad_quickstart", "shad_diversity_4", "shad_diversity_24")
SCORED_ROWS = 48


def keep_report(run: Path, kept: Path) -> None:
    """The report of classes, the config and the versions of a run of `shad`."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("classes.json", "config.yaml", "versions.json"):
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


def main(folder: str) -> int:
    runs = Path(folder)
    for name in REPORTS:
        keep_report(runs / name, LOGS / name)
    keep_scores(runs / "shad_quickstart" / "scores", LOGS / "shad_quickstart" / "scores")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
