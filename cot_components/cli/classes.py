"""Print how well runs of shad tell boilerplate from reasoning, one line per run."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot classes runs/shad_quickstart runs/shad_diversity_24",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a run of shad")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cot_components.evaluation.classes import compare_reports

    Console(width=max(Console().width, 120)).print(compare_reports(options.runs))
    return 0
