"""A page that compares several runs: the panels of the report of a single run, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cot_components.evaluation.compare import last_evaluation, named_evaluations
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.table import comparison_rows
from cot_components.evaluation.turns import disagreements
from cot_components.runs.layout import LOG
from cot_components.runs.log import Record, read_log
from cot_components.viz.page import render
from cot_components.viz.panels import compare_panels
from cot_components.viz.pictures import RUN_COLOURS, pictures
from cot_components.viz.report import accuracy_intervals, read_evaluations
from cot_components.viz.run_facts import fact_rows
from cot_components.viz.samples import samples_of_runs


def comparison_html(runs: Mapping[str, Path]) -> str:
    """A self-contained page that compares runs; anything that a folder does not contain is left out.

    Args:
        runs: folders of runs by name.

    Raises:
        UserError: a broken log, or a broken evaluation.
    """
    logs: dict[str, list[Record]] = {
        name: read_log(folder) if (folder / LOG).exists() else [] for name, folder in runs.items()
    }
    last: dict[str, Evaluation] = {
        name: last_evaluation(folder) for name, folder in runs.items() if named_evaluations(folder)
    }
    intervals = [accuracy_intervals(read_evaluations(folder)) for folder in runs.values()]
    return render(
        "compare.jinja",
        title="Runs compared",
        names=list(runs),
        run_colours=RUN_COLOURS,
        evaluated=list(last),
        comparison=comparison_rows(last) if last else None,
        curves=pictures(compare_panels(list(logs.values()), intervals), list(runs)),
        samples=samples_of_runs(disagreements(last)) if len(last) > 1 else None,
        facts=fact_rows([(folder, logs[name]) for name, folder in runs.items()]),
    )
