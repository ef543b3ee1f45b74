"""Print how well runs of shad tell boilerplate from reasoning, one line per run."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot classes runs/shad_quickstart runs/shad_diversity_24",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a run of shad")


def run(options: argparse.Namespace) -> int:
    from cot_components.evaluation.classes import compare_reports
    from cot_components.viz.console import plain_console

    plain_console(width=max(plain_console().width, 120)).print(compare_reports(options.runs))
    return 0
