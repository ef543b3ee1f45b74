"""Draw the curves of a run, or of several in one picture: loss by role, accuracy, stage."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot plot runs/bt_sft_quickstart", "cot plot runs/sft_baseline runs/target_sft_quickstart --out both.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a run, finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: curves.png in the (last) run's folder")


def run(options: argparse.Namespace) -> int:
    from cot_components.viz.curves import plot_run

    name = "curves.png" if len(options.runs) == 1 else "comparison.png"
    print(plot_run(options.runs, options.out or options.runs[-1] / name))
    return 0
