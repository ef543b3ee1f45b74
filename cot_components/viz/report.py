"""One page about one run: how it went, what was learnt, which answers changed, what it cost, what is on disk."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cot_components.config.files import read_text
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.saved import read_evaluation, saved_evaluations
from cot_components.evaluation.table import Cell, footnote, summary_rows
from cot_components.evaluation.turns import turns
from cot_components.files import entries, files_below, read_object
from cot_components.runs.layout import CHECKPOINTS, CONFIG, VERSIONS
from cot_components.runs.log import Record, read_log, series
from cot_components.viz.learnt import learnt
from cot_components.viz.page import render
from cot_components.viz.panels import run_panels
from cot_components.viz.pictures import pictures
from cot_components.viz.run_facts import fact_rows
from cot_components.viz.samples import samples_of_run
from cot_components.viz.visible import visible


def report_html(run_dir: str | Path) -> str:
    """The report on a run as one self-contained page; anything that its folder does not contain is left out.

    Reads `log.jsonl`, `evaluations/step_*.json`, `config.yaml`, `versions.json` and the manifests of `checkpoints/`.

    Raises:
        UserError: no such folder, no log in it, or a broken file.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run")
    records = read_log(run_dir)
    evaluations = read_evaluations(run_dir)
    checkpoints, unreadable = _checkpoints(run_dir)
    config, versions = run_dir / CONFIG, run_dir / VERSIONS
    return render(
        "report.jinja",
        title=visible(run_dir.resolve().name),
        headline=_headline(records),
        summary=_summary(evaluations),
        curves=pictures(run_panels(records, accuracy_intervals(evaluations))),
        course=_summary_of(evaluations) if len(evaluations) > 1 else None,
        learnt=learnt(evaluations[min(evaluations)], evaluations[max(evaluations)]) if len(evaluations) > 1 else None,
        samples=samples_of_run(turns({f"step {step:,}": evaluation for step, evaluation in evaluations.items()})),
        facts=fact_rows([(run_dir, records)]),
        checkpoints=checkpoints,
        unreadable=unreadable,
        files={f"{path.name}{'/' if path.is_dir() else ''}": _size(path) for path in sorted(run_dir.iterdir())},
        config=read_text(config) if config.is_file() else None,
        versions=read_object(versions) if versions.is_file() else None,
    )


def read_evaluations(run_dir: Path) -> dict[int, Evaluation]:
    """The evaluations a run saved, by step, in order."""
    return {step: read_evaluation(path) for step, path in saved_evaluations(run_dir).items()}


def accuracy_intervals(evaluations: Mapping[int, Evaluation]) -> dict[int, tuple[float, float]]:
    """The intervals of the accuracies by step; steps without one are left out."""
    return {step: found for step, one in evaluations.items() if (found := one.accuracy_interval) is not None}


def _headline(records: Sequence[Record]) -> str:
    """`500 steps, 2 epochs, 9,012 tokens/s`."""
    training = [record for record in records if "loss" in record]
    if not training:
        return "no steps yet"
    parts = [f"{max(r['step'] for r in training) + 1:,} steps"]
    if all("epoch" in record for record in training):
        epochs = max(r["epoch"] for r in training) + 1
        parts.append(f"{epochs:,} epoch{'s' if epochs > 1 else ''}")
    speeds = series(training, "tokens_per_second")[1]
    if len(speeds):
        parts.append(f"{statistics.median(speeds):,.0f} tokens/s")
    return ", ".join(parts)


class Summary(NamedTuple):
    """Evaluations side by side."""

    steps: list[int]
    rows: list[tuple[str, list[Cell]]]
    footnote: str

    @property
    def heads(self) -> list[str]:
        """The column heading of each evaluation."""
        return [f"step {step:,}" for step in self.steps]

    @property
    def course(self) -> list[tuple[str, list[Cell]]]:
        """The same with one row per evaluation, for when there are too many to fit side by side."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return [(head, list(column)) for head, column in zip(self.heads, columns, strict=True)]


def _summary(evaluations: Mapping[int, Evaluation]) -> Summary | None:
    """The first and the last evaluation."""
    ends = {step: evaluations[step] for step in sorted(evaluations)[:: max(1, len(evaluations) - 1)]}
    return _summary_of(ends) if ends else None


def _summary_of(evaluations: Mapping[int, Evaluation]) -> Summary:
    results = list(evaluations.values())
    return Summary(list(evaluations), summary_rows(results), footnote(results))


class Checkpoint(NamedTuple):
    """A folder of `checkpoints/`; `damage` is "" if it looks complete. Hashes are not checked."""

    name: str
    step: str
    size: str
    damage: str


def _checkpoints(run_dir: Path) -> tuple[list[Checkpoint], str]:
    """The run's checkpoints, oldest first; or why they cannot be read."""
    try:
        found = [path for path in entries(run_dir / CHECKPOINTS) if path.name.startswith("step_")]
    except OSError as error:
        return [], str(error.strerror)
    return [
        Checkpoint(path.name, re.sub(r"\D*0*(\d+)$", r"\1", path.name), _size(path), _damage(path)) for path in found
    ], ""


def _damage(checkpoint: Path) -> str:
    """The first file of the manifest that is missing or has another size; "" if the checkpoint looks complete."""
    try:
        named = read_object(checkpoint / "manifest.json")["files"]
        wrong = [
            name
            for name, entry in named.items()
            if not (checkpoint / name).is_file() or (checkpoint / name).stat().st_size != entry["size"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return wrong[0] if wrong else ""


def _size(path: Path) -> str:
    try:
        size = float(sum(file.lstat().st_size for file in (files_below(path) if path.is_dir() else [path])))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
