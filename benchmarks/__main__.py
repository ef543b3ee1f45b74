"""`python -m benchmarks [NAME ...]`: exit code 1 if a gate is missed, or with `--strict` if anything could not run.

`python -m benchmarks gpu`: see `benchmarks.gpu`.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
from collections.abc import Iterator

import torch

from benchmarks import BENCHMARKS
from benchmarks.gpu import command
from benchmarks.report import HEADER, Absent, Row, verdicts, write


def main(argv: list[str]) -> int:
    if argv[:1] == ["gpu"]:
        return command.main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ours against a peer on a CPU, ratio by ratio.",
        epilog="python -m benchmarks gpu ...: everything that needs a GPU; see gpu --help",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--strict", action="store_true", help="count what cannot run as missed")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)

    everything: list[Row] = []
    began = processor_seconds()
    for name in options.names or BENCHMARKS:
        so_far = processor_seconds()
        print(f"\n{name}\n{HEADER}", flush=True)
        rows = []
        for row in run(name):
            print(row.line(), flush=True)
            rows.append(row)
        if any(row.ratio is not None for row in rows):
            path = write(name, rows, f"python -m benchmarks {name}")
            print(f"written to {path} after {processor_seconds() - so_far:,.0f} s of processor time")
        everything += rows
    count = verdicts(everything)
    print(f"\n{count['ok']} gates kept, {count['MISSED']} missed, {count['NOT RUN']} rows not run")
    print(f"{processor_seconds() - began:,.0f} s of processor time, child processes included")
    return int(count["MISSED"] > 0 or (options.strict and count["NOT RUN"] > 0))


def processor_seconds() -> float:
    """Of this process and its finished children."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def run(name: str) -> Iterator[Row]:
    """Rows of one benchmark, as they are measured."""
    try:
        yield from importlib.import_module(BENCHMARKS[name]).rows()
    except Absent as error:
        yield Row(name, "all", "", note=str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
