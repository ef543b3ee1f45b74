"""Compare runs, or the beginning and the end of one: tables of what was measured, their curves in one picture, and for
several runs a page with both, their precision, memory and speed, and the answers in which they differ.

Runs with evaluations: accuracies with 95 % intervals, and their differences on the same examples. Runs of shad: how
well they tell boilerplate from reasoning. Runs with a curriculum: accuracy against removed tokens, in the picture. Runs
with several evaluation.max_thought_tokens: accuracy against tokens of the thought, in its place. The page of one run is
what `cot report` writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cot_components.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cot_components.evaluation.evaluate import Evaluation

EXAMPLES = (
    "cot compare runs/bt_sft_quickstart",
    "cot compare runs/sft_baseline runs/dft_baseline runs/target_sft_quickstart --out three.png",
    "cot compare runs/shad_quickstart runs/shad_diversity_24",
    "cot compare runs/sft_baseline runs/bt_sft_quickstart --out comparison.html",
    "cot compare runs/eval_16 runs/eval_32 runs/eval_64 --out budgets.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a run, finished or not")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the picture (.png, .svg ...) or the page (.html) alone; default: curves.png in the run's folder, "
        "comparison.png and comparison.html in the last of several",
    )


def run(options: argparse.Namespace) -> int:
    from cot_components.runs.layout import COMPARISON, CURVES, LOG
    from cot_components.runs.log import read_log
    from cot_components.viz.budgets import have_budgets, plot_budgets
    from cot_components.viz.console import plain_console
    from cot_components.viz.curves import plot_run, run_names
    from cot_components.viz.panels import panels_of
    from cot_components.viz.visible import one_line

    runs = dict(zip(run_names(options.runs), options.runs, strict=True))
    logged = {name: folder for name, folder in runs.items() if (folder / LOG).exists()}
    measured, tables = _tables(runs)
    if missing := [folder for name, folder in runs.items() if name not in {*logged, *measured}]:
        raise UserError(f"{missing[0]} holds no log, evaluation or report of classes; is it the output_dir of a run?")
    page_alone = options.out is not None and options.out.suffix.lower() in (".html", ".htm")
    picture = None
    default = options.runs[-1] / (CURVES if len(runs) == 1 else COMPARISON)
    if page_alone:
        pass
    elif have_budgets(last := _last_evaluations(runs) if len(runs) > 1 else {}):
        picture = plot_budgets(last, runs, options.out or default)
    elif options.out or not tables or panels_of([read_log(folder) for folder in logged.values()]):
        picture = plot_run(list(logged.values()), options.out or default)
    page = _page(runs, options) if page_alone or (len(runs) > 1 and options.out is None) else None
    console = plain_console(width=max(plain_console().width, 90, 30 + 26 * len(runs)))
    for table in tables:
        console.print(table)
    for name in runs if tables else ():
        if name not in measured:
            console.print(f"{name}: no evaluation yet")
    if picture:
        console.print(one_line(f"curves  {picture}"), soft_wrap=True)
    if page:
        console.print(one_line(f"page    {page}"), soft_wrap=True)
    return 0


def _page(runs: Mapping[str, Path], options: argparse.Namespace) -> Path:
    """Write the page of several runs, or the report of one."""
    from cot_components.runs.layout import COMPARISON_PAGE
    from cot_components.viz.compare_page import comparison_html
    from cot_components.viz.report import report_html

    text = comparison_html(runs) if len(runs) > 1 else report_html(options.runs[0])
    path = options.out or options.runs[-1] / COMPARISON_PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _last_evaluations(runs: Mapping[str, Path]) -> dict[str, Evaluation]:
    """The last evaluation of each run that has one, by name."""
    from cot_components.evaluation.compare import last_evaluation, named_evaluations

    return {name: last_evaluation(folder) for name, folder in runs.items() if named_evaluations(folder)}


def _tables(runs: Mapping[str, Path]) -> tuple[set[str], list[RenderableType]]:
    """Names of the runs with evaluations or a report of classes, and the tables to print."""
    from cot_components.evaluation.class_report import read_report
    from cot_components.evaluation.compare import first_and_last, named_evaluations
    from cot_components.evaluation.table import comparison_table
    from cot_components.runs.layout import CLASSES
    from cot_components.viz.class_view import compare_reports, show

    evaluated = {name: folder for name, folder in runs.items() if named_evaluations(folder)}
    reports = {name: read_report(folder / CLASSES) for name, folder in runs.items() if (folder / CLASSES).exists()}
    tables: list[RenderableType] = []
    if len(runs) == 1:
        tables += [comparison_table(first_and_last(folder)) for folder in evaluated.values()]
        tables += [part for report in reports.values() for part in show(report)]
    else:
        if evaluated:
            tables.append(comparison_table(_last_evaluations(evaluated)))
        if reports:
            tables.append(compare_reports(reports))
    return {*evaluated, *reports}, tables
