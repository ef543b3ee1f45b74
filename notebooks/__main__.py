"""`python -m notebooks [NAME ...] [--fast]`: execute notebooks from their `.py` and write the `.ipynb` with outputs."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

from notebooks.execute import FOLDER, NAMES, execute, tidy, write


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m notebooks", description="Execute notebooks; write their outputs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--fast", action="store_true", help="smallest sizes; nothing is written")
    options = parser.parse_args(argv)
    for name in [n for n in NAMES if not options.names or any(n.startswith(start) for start in options.names)]:
        started, before = time.perf_counter(), _cpu_seconds()
        notebook = execute(name, folder=FOLDER, fast=options.fast)
        print(f"{name}: {time.perf_counter() - started:.0f} s, {_cpu_seconds() - before:.0f} s of CPU time", flush=True)
        if not options.fast:
            write(name, tidy(notebook))
    return 0


def _cpu_seconds() -> float:
    """CPU time of this process and of all finished children and their children."""
    used = os.times()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.user + used.system + spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
