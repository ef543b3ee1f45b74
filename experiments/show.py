"""A study's cells on the screen and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from experiments.study import Result, Study, figure_path, interval, paired, spell, values_of


def table(study: Study, cells: Sequence[Result]) -> str:
    """Mean and 95 % interval of every figure, and the paired difference from the first arm, seed by seed."""
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
    """One panel per figure: means with their intervals, arms side by side. Returns the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(len(study.metrics), 2)
    rows = math.ceil(len(study.metrics) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    panels = list(grid.flat)
    for unused in panels[len(study.metrics) :]:
        unused.axis("off")
    for panel, (metric, label) in zip(panels, study.metrics.items(), strict=False):
        scale = 100 if metric in study.percent else 1
        for number, arm in enumerate(study.arms):
            found = [interval(list(values_of(cells, arm, setting, metric).values())) for setting in study.settings]
            offset = (number - (len(study.arms) - 1) / 2) * 0.6 / len(study.arms)
            places = [place + offset for place in range(len(study.settings))]
            means, widths = zip(*found, strict=True)
            panel.errorbar(
                places,
                [scale * mean for mean in means],
                yerr=[0 if math.isnan(width) else scale * width for width in widths],
                fmt="o",
                capsize=3,
                label=arm,
            )
        panel.set_xticks(range(len(study.settings)), [name.replace(", ", ",\n") for name in study.settings])
        panel.set_xlabel(study.setting_label)
        panel.set_ylabel(f"{label}, %" if metric in study.percent else label)
        panel.grid(axis="y", alpha=0.3)
        if metric in study.percent:
            low, high = panel.get_ylim()
            panel.set_ylim(max(low, -3), min(high, 103))
    if len(study.arms) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    path = figure_path(study)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
