"""`python -m experiments NAME [--seeds N] [--jobs N] [--draw]`: run what is missing, print the table, draw it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from cot_components.errors import UserError
from experiments import STUDIES
from experiments.runner import draw, read_cells, run, table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments", description="Arms x settings x seeds, cell by cell.")
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--seeds", type=int, help="how many; the study's own number when not given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time; one per core")
    parser.add_argument("--draw", action="store_true", help="run nothing, show what is there")
    options = parser.parse_args(argv)
    study = importlib.import_module(STUDIES[options.name]).STUDY
    try:
        if not options.draw:
            run(study, seeds=options.seeds, jobs=options.jobs)
        cells = read_cells(study)
        print(table(study, cells))
        print(f"figure: {draw(study, cells)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
