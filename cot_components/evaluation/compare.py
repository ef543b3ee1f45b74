"""The last evaluations of several runs side by side, and their curves in one picture.

python -m cot_components.evaluation.compare runs/target_sft_baseline runs/target_sft_quickstart
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.console import Console

from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, read_evaluation
from cot_components.evaluation.table import summary_table
from cot_components.viz.curves import plot_run

_STEP = re.compile(r"step_(\d+)\.json")


def last_evaluation(run_dir: Path) -> Evaluation:
    """The evaluation of the highest step that a run saved.

    Raises:
        UserError: the folder holds none.
    """
    saved = {
        int(found[1]): path for path in run_dir.glob("evaluations/*.json") if (found := _STEP.fullmatch(path.name))
    }
    if not saved:
        raise UserError(f"{run_dir} holds no evaluation; is it the output_dir of a finished run?")
    return read_evaluation(saved[max(saved)])


def main(run_dirs: list[str]) -> int:
    """Print the table and draw the curves beside the last run; returns the exit code."""
    folders = [Path(run_dir) for run_dir in run_dirs]
    try:
        if not folders:
            raise UserError("name the output_dir of one run or more")
        evaluations = {folder.name: last_evaluation(folder) for folder in folders}
        picture = plot_run(folders, folders[-1] / "comparison.png")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(width=max(Console().width, 30 + 26 * len(folders)))
    console.print(summary_table(**evaluations))
    console.print(f"curves  {picture}", soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
