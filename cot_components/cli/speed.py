"""Measure how fast the models of finished runs answer, one prompt at a time and batched, and how accurately.

Every run's exported model answers the same number of its evaluation's prompts, in turn with the others. Speeds are also
given relative to the first run; for stepwise internalisation, that should be the one without chain-of-thought.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.cli.shipped import add_allow

EXAMPLES = ("cot speed runs/icot_sft_no_cot runs/icot_sft_quickstart", "cot speed runs/bt_sft_quickstart --rows 16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output_dir of a finished run")
    parser.add_argument("--rows", type=int, default=64, help="prompts answered (default 64)")
    add_allow(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="prompts per batch (default 64)")


def run(options: argparse.Namespace) -> int:
    import torch

    from cot_components.tools.speed import load_run, measure_speeds
    from cot_components.viz.console import plain_console
    from cot_components.viz.curves import run_names

    torch.set_num_threads(1)
    names = run_names(options.runs)
    runs = [load_run(folder)._replace(name=name) for folder, name in zip(options.runs, names, strict=True)]
    plain_console().print(measure_speeds(runs, rows=options.rows, batch_size=options.batch_size))
    return 0
