"""`python -m experiments NAME [--seeds N] [--jobs N]` runs missing cells; without a name, it regenerates all tables;
`--check` checks that the lines of all studies were run under their rules.
"""

from __future__ import annotations

import argparse
import os
import sys

from cot_components.errors import UserError
from experiments import STUDIES
from experiments.readme import README, load, readme
from experiments.runner import run
from experiments.show import draw, table
from experiments.study import read_cells, standing


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments", description="Arms x settings x seeds, cell by cell.")
    parser.add_argument("name", nargs="?", choices=STUDIES, help="the study to run; without one, nothing is run")
    parser.add_argument("--seeds", type=int, help="number of seeds; default: the study's own")
    parser.add_argument("--jobs", type=int, help="cells at a time; default: the study's own, or one per core")
    parser.add_argument("--check", action="store_true", help="run and write nothing, check the lines of all studies")
    options = parser.parse_args(argv)
    try:
        if options.check:
            print("\n".join(map(standing, map(load, [options.name] if options.name else STUDIES))))
            return 0
        if options.name:
            study = load(options.name)
            run(study, seeds=options.seeds, jobs=options.jobs or study.jobs or os.cpu_count() or 1)
            print(table(study, read_cells(study)))
        for study in map(load, [options.name] if options.name else STUDIES):
            if cells := read_cells(study):
                print(f"figure: {draw(study, cells)}")
        README.write_text(readme(), encoding="utf-8")
        print(f"tables: {README}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
