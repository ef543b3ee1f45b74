"""Print the last evaluations of several runs side by side, and draw their curves in one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot compare runs/sft_baseline runs/dft_baseline runs/target_sft_quickstart",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a finished run")


def run(options: argparse.Namespace) -> int:
    from cot_components.evaluation.compare import last_evaluation
    from cot_components.evaluation.table import summary_table
    from cot_components.viz.console import plain_console
    from cot_components.viz.curves import plot_run, run_names
    from cot_components.viz.visible import one_line

    names = run_names(options.runs)
    evaluations = {name: last_evaluation(folder) for name, folder in zip(names, options.runs, strict=True)}
    picture = plot_run(options.runs, options.runs[-1] / "comparison.png")
    console = plain_console(width=max(plain_console().width, 30 + 26 * len(options.runs)))
    console.print(summary_table(**evaluations))
    console.print(one_line(f"curves  {picture}"), soft_wrap=True)
    return 0
