"""Write a self-contained page about a run: config, versions, curves, samples before and after, checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot report runs/bt_sft_quickstart", "cot report runs/bt_sft_quickstart --out report.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="output_dir of a run, finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="default: report.html in the run's folder")


def run(options: argparse.Namespace) -> int:
    from cot_components.runs.layout import REPORT
    from cot_components.viz.report import report_html

    page = report_html(options.run_dir)
    path = options.out or options.run_dir / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(path)
    return 0
