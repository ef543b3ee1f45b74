"""Compare runs, or the beginning and the end of one run: tables of results, and curves in one picture.

Runs with evaluations: accuracies with 95 % intervals, and their differences on the same examples. Runs of shad: how
well they tell boilerplate from reasoning. Runs with a curriculum: the picture shows accuracy against removed tokens.
Runs with different evaluation.max_thought_tokens: it shows accuracy against tokens of thought instead.
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
    "cot compare runs/eval_16 runs/eval_32 runs/eval_64 --out budgets.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a run, finished or not")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="the picture; default: curves.png in the run's folder, comparison.png in the last of several",
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
        raise UserError(f"{missing[0]} has no log, evaluation or report of classes; is it the output_dir of a run?")
    picture = None
    default = options.runs[-1] / (CURVES if len(runs) == 1 else COMPARISON)
    if have_budgets(last := _last_evaluations(runs) if len(runs) > 1 else {}):
        picture = plot_budgets(last, runs, options.out or default)
    elif options.out or not tables or panels_of([read_log(folder) for folder in logged.values()]):
        picture = plot_run(list(logged.values()), options.out or default)
    console = plain_console(width=max(plain_console().width, 90, 30 + 26 * len(runs)))
    for table in tables:
        console.print(table)
    for name in runs if tables else ():
        if name not in measured:
            console.print(f"{name}: no evaluation yet")
    if picture:
        console.print(one_line(f"curves  {picture}"), soft_wrap=True)
    return 0


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
