"""Show some answers of a run side by side, from its first and its last evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.errors import UserError

EXAMPLES = ("cot samples runs/bt_sft_quickstart_real", "cot samples runs/bt_sft_quickstart --n 10")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="output_dir of a run with evaluations")
    parser.add_argument("--n", type=int, default=3, metavar="ROWS", help="prompts shown (default 3)")


def run(options: argparse.Namespace) -> int:
    from cot_components.evaluation.compare import first_and_last
    from cot_components.evaluation.table import samples_table
    from cot_components.viz.console import plain_console

    if options.n < 1:
        raise UserError(f"--n must be at least 1, got {options.n}")
    plain_console().print(samples_table(first_and_last(options.run_dir), rows=options.n))
    return 0
