"""Make training data from a model's own answers: its right answers, and gold ones where it was wrong (S3FT).

Answers come from a run of `tune run cot_eval` on the training questions, which also checks them. --ask writes the
questions answered wrong, each with its gold answer, for the model to restate; pass a run of cot_eval on that file as
--restated. Each row of the output has a `route`: own, restated or gold; without --restated, own or gold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.cli.shipped import add_allow
from cot_components.errors import UserError

EXAMPLES = (
    "cot s3ft runs/answered --out s3ft.jsonl",
    "cot s3ft runs/answered --ask restate.jsonl",
    "cot s3ft runs/answered --restated runs/restated --out s3ft.jsonl",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="output_dir of cot_eval on the training questions")
    parser.add_argument("--restated", type=Path, metavar="RUN", help="output_dir of cot_eval on what --ask wrote")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="rows to train on")
    parser.add_argument(
        "--ask", type=Path, metavar="FILE.jsonl", help="write the questions whose gold answers the model should restate"
    )
    add_allow(parser)


def run(options: argparse.Namespace) -> int:
    from cot_components.tools.s3ft import routed, write_questions, write_rows
    from cot_components.viz.console import plain_console
    from cot_components.viz.visible import one_line

    if (options.out is None) == (options.ask is None):
        raise UserError("set one of --out FILE and --ask FILE")
    rows, console = routed(options.run_dir, options.restated), plain_console()
    if options.ask is not None:
        number = write_questions(rows, options.ask)
        console.print(one_line(f"{number:,} of {len(rows):,} questions to restate: {options.ask}"), soft_wrap=True)
        return 0
    counts = write_rows(rows, options.out)
    said = ", ".join(f"{name} {counts.get(name, 0):,}" for name in ("own", "restated", "gold"))
    console.print(one_line(f"{len(rows):,} rows, targets {said}: {options.out}"), soft_wrap=True)
    return 0
