"""Draw accuracy against removed tokens, from the logs of runs of icot_sft."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot internalisation runs/icot_sft_no_cot runs/icot_sft_quickstart --out internalisation.png",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a run of icot_sft")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.png", help="default: internalisation.png in the last run's folder"
    )


def run(options: argparse.Namespace) -> int:
    from cot_components.viz.internalisation import plot_internalisation

    print(plot_internalisation(options.runs, options.out or options.runs[-1] / "internalisation.png"))
    return 0
