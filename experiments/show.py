"""The cells of a study as a table in the terminal and as a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cot_components.viz.curves import STYLE
from cot_components.viz.theme import INK, RUN_COLOURS
from experiments.comparisons import paired
from experiments.study import Result, Study, figure_path, interval, spell, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def table(study: Study, cells: Sequence[Result]) -> str:
    """Mean and 95 % interval of every metric, and the paired difference from the first arm, seed by seed."""
    lines = []
    for setting in study.settings:
        for metric, label in study.metrics.items():
            lines.append(f"\n{study.setting_label} {setting}: {label}")
            for arm in study.arms:
                found = values_of(cells, arm, setting, metric)
                if not found:
                    continue
                line = f"  {arm:18}{spell(study, metric, interval(list(found.values()))):24} {len(found)} seeds"
                difference, seeds = paired(study, cells, arm, setting, metric)
                if arm != study.arms[0] and seeds:
                    line += f"   {spell(study, metric, difference, sign=True)} against {study.arms[0]}"
                lines.append(line)
    return "\n".join(lines).strip("\n")


def draw(study: Study, cells: Sequence[Result]) -> Path:
    """One panel per metric of the first arm: how the others differ from it, with intervals. Returns the path.

    A difference from one seed has no interval and is drawn hollow.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [m for m in study.metrics if m != study.against]
    compared = [m for m in shown if any(values_of(cells, study.arms[0], s, m) for s in study.settings)]
    columns = min(len(compared), 2)
    rows = math.ceil(len(compared) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(6 * columns, 3.2 * rows + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = [figure.add_subplot(rows, columns, number + 1) for number in range(len(compared))]
        for panel, metric in zip(panels, compared, strict=True):
            (_draw_differences if study.against is None else _draw_dots)(panel, study, cells, metric)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        path = figure_path(study)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    return path


def _draw_dots(panel: Axes, study: Study, cells: Sequence[Result], metric: str) -> None:
    """How the second arm differs from the first in each cell, against the metric that `Study.against` names."""
    assert study.against is not None
    scale, unit = (100, " (points)") if metric in study.percent else (1, "")
    panel.axhline(0, color=INK.light, linewidth=0.8)
    first, second = study.arms
    for number, setting in enumerate(study.settings):
        ours, theirs = (values_of(cells, arm, setting, metric) for arm in (second, first))
        where = values_of(cells, first, setting, study.against)
        seeds = sorted(ours.keys() & theirs.keys() & where.keys())
        found = [scale * (ours[seed] - theirs[seed]) for seed in seeds]
        colour = RUN_COLOURS[number % len(RUN_COLOURS)]
        panel.plot([where[seed] for seed in seeds], found, "o", color=colour, markersize=5, label=setting)
    panel.set_xlabel(study.metrics[study.against])
    panel.set_title(f"{study.metrics[metric]}: {second} against {first}{unit}", loc="left")


def _draw_differences(panel: Axes, study: Study, cells: Sequence[Result], metric: str) -> None:
    scale, unit = (100, " (points)") if metric in study.percent else (1, "")
    settings = [s for s in study.settings if values_of(cells, study.arms[0], s, metric)]
    means: list[float] = []
    panel.axhline(0, color=INK.light, linewidth=0.8)
    for number, arm in enumerate(study.arms[1:]):
        colour = RUN_COLOURS[number % len(RUN_COLOURS)]
        offset = (number - (len(study.arms) - 2) / 2) * 0.7 / len(study.arms)
        panel.plot([], [], "o", color=colour, label=arm)
        for place, setting in enumerate(settings):
            (mean, width), seeds = paired(study, cells, arm, setting, metric)
            if seeds:
                means.append(scale * mean)
                style = {"color": colour, "capsize": 3, "markerfacecolor": colour if seeds > 1 else "none"}
                error = None if math.isnan(width) else scale * width
                panel.errorbar(place + offset, scale * mean, yerr=error, fmt="o", markersize=5, **style)
    panel.set_xticks(range(len(settings)), [name.replace(", ", ",\n") for name in settings])
    panel.set_xlim(-0.5, len(settings) - 0.5)
    panel.set_xlabel(study.setting_label)
    panel.set_title(f"{study.metrics[metric]}: against {study.arms[0]}{unit}", loc="left")
    if metric in study.percent:
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, -105), min(high, 105))
    elif (typical := 10 * statistics.median(map(abs, means))) and max(map(abs, means)) > typical:
        panel.set_yscale("symlog", linthresh=typical)
