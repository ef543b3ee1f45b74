"""Print the last evaluations of several runs side by side, and draw their curves in one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot compare runs/sft_baseline runs/dft_baseline runs/target_sft_quickstart",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a finished run")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cot_components.evaluation.compare import last_evaluation
    from cot_components.evaluation.table import summary_table
    from cot_components.viz.curves import plot_run, run_names

    names = run_names(options.runs)
    evaluations = {name: last_evaluation(folder) for name, folder in zip(names, options.runs, strict=True)}
    picture = plot_run(options.runs, options.runs[-1] / "comparison.png")
    console = Console(width=max(Console().width, 30 + 26 * len(options.runs)))
    console.print(summary_table(**evaluations))
    console.print(f"curves  {picture}", soft_wrap=True, highlight=False)
    return 0
