"""Show some answers of a run side by side: as its first evaluation has them, and its last."""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.errors import UserError

EXAMPLES = ("cot samples runs/bt_sft_quickstart_real", "cot samples runs/bt_sft_quickstart --n 10")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="output_dir of a run with evaluations")
    parser.add_argument("--n", type=int, default=3, metavar="ROWS", help="prompts shown (default 3)")


def run(options: argparse.Namespace) -> int:
    from cot_components.evaluation.saved import read_evaluation, saved_evaluations
    from cot_components.evaluation.table import samples_table
    from cot_components.viz.console import plain_console

    if options.n < 1:
        raise UserError(f"--n must be at least 1, got {options.n}")
    saved = saved_evaluations(options.run_dir)
    if not saved:
        raise UserError(f"{options.run_dir} holds no evaluations")
    ends = {f"step {step}" if step else "before": saved[step] for step in dict.fromkeys((min(saved), max(saved)))}
    plain_console().print(samples_table({name: read_evaluation(path) for name, path in ends.items()}, rows=options.n))
    return 0
