"""One page about one run: what it was, how it went, what the model said before and after, and what is left on disk."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from cot_components.config.files import read_text
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, Example
from cot_components.evaluation.saved import read_evaluation, saved_evaluations
from cot_components.evaluation.table import Cell, footnote, summary_rows
from cot_components.files import entries, files_below, read_object
from cot_components.runs.layout import CHECKPOINTS, CONFIG, VERSIONS
from cot_components.runs.log import Record, read_log, series
from cot_components.viz.curves import draw_panels, drawing
from cot_components.viz.page import COLOURS, render
from cot_components.viz.panels import run_panels
from cot_components.viz.visible import visible

SHOWN_EXAMPLES = 6


def report_html(run_dir: str | Path) -> str:
    """The report of a run's folder as one self-contained page; what the folder does not hold is left out.

    Read are `log.jsonl`, `evaluations/step_*.json`, `config.yaml`, `versions.json` and the manifests of `checkpoints/`.

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
        curves=_curves(records),
        samples=_samples([evaluation for evaluation in evaluations.values() if evaluation.examples]),
        checkpoints=checkpoints,
        unreadable=unreadable,
        files={f"{path.name}{'/' if path.is_dir() else ''}": _size(path) for path in sorted(run_dir.iterdir())},
        config=read_text(config) if config.is_file() else None,
        versions=read_object(versions) if versions.is_file() else None,
    )


def read_evaluations(run_dir: Path) -> dict[int, Evaluation]:
    """The evaluations a run saved, by step, in order."""
    return {step: read_evaluation(path) for step, path in saved_evaluations(run_dir).items()}


def _headline(records: Sequence[Record]) -> str:
    """`500 steps, 2 epochs, 9,012 tokens/s`."""
    training = [record for record in records if "loss" in record]
    if not training:
        return "no step yet"
    parts = [f"{max(r['step'] for r in training) + 1:,} steps"]
    if all("epoch" in record for record in training):
        epochs = max(r["epoch"] for r in training) + 1
        parts.append(f"{epochs:,} epoch{'s' if epochs > 1 else ''}")
    speeds = series(training, "tokens_per_second")[1]
    if len(speeds):
        parts.append(f"{statistics.median(speeds):,.0f} tokens/s")
    return ", ".join(parts)


class Summary(NamedTuple):
    """The first and the last evaluation side by side."""

    steps: list[int]
    rows: list[tuple[str, list[Cell]]]
    footnote: str


def _summary(evaluations: dict[int, Evaluation]) -> Summary | None:
    if not evaluations:
        return None
    steps = sorted({min(evaluations), max(evaluations)})
    results = [evaluations[step] for step in steps]
    return Summary(steps, summary_rows(results), footnote(results))


def _curves(records: Sequence[Record]) -> Markup | None:
    panels = run_panels(records)
    if not panels:
        return None
    drawn = io.StringIO()
    figure = draw_panels(panels, [])
    with drawing():
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    # The colours of the theme become the variables of the page, so that the figure is light or dark as the page is.
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour.light, f"var(--{variable})")
    return Markup(svg[svg.index("<svg") :])


class Sample(NamedTuple):
    """A prompt with what the model said, `before` and `after`."""

    prompt: str
    completions: dict[str, Example]


def _samples(evaluations: Sequence[Evaluation]) -> list[Sample]:
    """Some prompts with what the model said at first and at last; wrong answers first, as they tell more."""
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    before = {example.where: example for example in reversed(first.examples)} if len(evaluations) > 1 else {}
    lead = [samples[0] for samples in last.by_trace]
    wrong, right = ([e for e in lead if (e.correct is False) is is_wrong] for is_wrong in (True, False))
    shown = wrong[: SHOWN_EXAMPLES // 2]
    shown += right[: SHOWN_EXAMPLES - len(shown)]
    samples = []
    for example in shown:
        said = {"before": before[example.where]} if example.where in before else {}
        prompt = "\n".join(message["content"] for message in example.prompt)
        samples.append(Sample(prompt, {**said, "after": example}))
    return samples


class Checkpoint(NamedTuple):
    """A folder of `checkpoints/`; `damage` is "" for one that looks whole. Hashes are not checked."""

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
    """What a checkpoint's own manifest names and its folder does not hold; "" for one that looks whole."""
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
