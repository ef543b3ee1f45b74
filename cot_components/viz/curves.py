"""Training curves of one run or of several, as a figure that needs no legend."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cot_components.errors import UserError
from cot_components.runs.log import Record, read_log
from cot_components.viz.panels import MARKS, Panel, panels_of
from cot_components.viz.theme import INK, LINE, MUTED, PAPER, RUN_COLOURS
from cot_components.viz.visible import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK.light,
    "axes.edgecolor": LINE.light,
    "axes.facecolor": PAPER.light,
    "axes.labelcolor": MUTED.light,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE.light,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "figure.facecolor": PAPER.light,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "cot",
}
MARGINS: Any = {"w_pad": 0.16, "h_pad": 0.1, "wspace": 0.04, "hspace": 0.06}


def plot_run(
    run_dirs: str | Path | Sequence[str | Path],
    path: str | Path,
    *,
    panels: Callable[[Sequence[list[Record]]], list[Panel]] = panels_of,
) -> Path:
    """Plot the log of one run, or the logs of several with one panel per quantity.

    Plots what the log contains of loss by role, accuracy and format rate, thought length, removed tokens or stage.

    Args:
        run_dirs: a folder with a `log.jsonl`, or several to compare; each is named after its folder.
        path: the picture to write, a PNG or any other type that matplotlib supports.
        panels: logs to panels; everything by default.

    Returns:
        `path`.

    Raises:
        UserError: no run, the same run twice, no log, nothing to plot, or an unsupported file type.
    """
    dirs = [Path(d) for d in ([run_dirs] if isinstance(run_dirs, str | Path) else run_dirs)]
    if not dirs:
        raise UserError("no run to plot")
    drawn = panels([read_log(d) for d in dirs])
    if not drawn:
        raise UserError(f"{', '.join(map(str, dirs))}: the log holds nothing to plot yet")
    path = picture_path(path)
    colours = [INK.light] if len(dirs) == 1 else cycle(RUN_COLOURS)
    figure = draw_panels(drawn, list(zip(run_names(dirs), colours, strict=False)))
    with drawing():
        figure.savefig(path, dpi=160)
    return path


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the style of all figures; a glyph that no font has is drawn as a box, without a warning."""
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def picture_path(path: str | Path) -> Path:
    """Check the file type of a picture to write and create its folder; returns the path.

    Raises:
        UserError: matplotlib does not support the file type.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path, types = Path(path), FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in types:
        raise UserError(f"{path}: the name of a picture must end in one of .{', .'.join(sorted(types))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def run_names(dirs: Sequence[Path]) -> list[str]:
    """The shortest path suffixes that tell the runs apart, each on one line and without control characters.

    Raises:
        UserError: the same run twice.
    """
    for depth in range(1, max((len(d.resolve().parts) for d in dirs), default=1) + 1):
        names = [one_line("/".join(d.resolve().parts[-depth:])) for d in dirs]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{dirs[0]}: the same run twice")


def literal(name: str) -> str:
    """Escape a name for matplotlib, in which `$` starts a formula and a leading `_` hides a label."""
    return re.sub(r"^_", "\u200a_", name.replace("$", r"\$"))


def draw_panels(panels: Sequence[Panel], names: Sequence[tuple[str, str]], *, width: float = 4.6) -> Figure:
    """A figure with at most three panels per row, below the names of the runs in their colours; needs no display.

    Args:
        panels: what to draw.
        names: name and colour of each run.
        width: of a panel, in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(3, len(panels)) if len(panels) != 4 else 2
    rows = -(-len(panels) // columns)
    with drawing():
        figure = Figure(
            figsize=(width * columns, 3.0 * rows + (0.4 if names else 0)), layout=ConstrainedLayoutEngine(**MARGINS)
        )
        FigureCanvasAgg(figure)
        if names:
            _draw_names(figure, names)
        for i, panel in enumerate(panels):
            _draw_panel(figure.add_subplot(rows, columns, i + 1), panel)
        figure.canvas.draw()  # where labels go depends on the final height of the axes
        for axes, panel in zip(figure.axes, panels, strict=True):
            _label_lines(axes, panel)
    return figure


def _draw_names(figure: Figure, names: Sequence[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], color=colour) for _, colour in names],
        [literal(name) for name, _ in names],
        loc="outside upper left",
        ncols=len(names),
        labelcolor="linecolor",
        prop={"size": 13, "weight": "bold"},
        frameon=False,
        handlelength=0,
        handletextpad=0,
        columnspacing=1.4,
        borderaxespad=0.4,
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in panel.lines:
        if line.marks:
            axes.plot(line.steps, line.values, color=line.colour, linestyle="", **MARKS[line.marks])
            continue
        draw: Callable[..., Any] = axes.step if line.stairs else axes.plot
        extra = {"where": "post"} if line.stairs else {}
        marker = "o" if len(line.steps) <= 30 and not line.smooth and not line.stairs else None
        if line.smooth:
            axes.plot(line.steps, line.values, color=line.colour, alpha=0.18, linewidth=0.8)
        dashes = (0, (3, 2)) if line.dashed else "-"
        draw(line.steps, line.trend, color=line.colour, linestyle=dashes, marker=marker, markersize=3, **extra)
        if line.between is not None:
            axes.vlines(line.steps, *line.between.T, color=line.colour, alpha=0.5, linewidth=1.2)
        for note, x, y in zip(line.notes, line.steps, line.values, strict=False):
            axes.annotate(note, (x, y), xytext=(4, 5), textcoords="offset points", color=line.colour, fontsize=8.5)
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", pad=10)
    axes.margins(x=0.02)
    axes.set_xlabel(panel.across, loc="right", labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    _set_scale(axes, panel)


def _set_scale(axes: Axes, panel: Panel) -> None:
    if panel.kind == "share":
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
        return
    values = np.concatenate([line.trend for line in panel.lines])
    scale_values(axes, values, logarithmic=panel.kind == "loss")


def scale_values(axes: Axes, values: np.ndarray, *, logarithmic: bool) -> None:
    """Start the vertical axis at 0, or make it logarithmic if allowed and the values span more than a factor of 10."""
    from matplotlib.ticker import MaxNLocator

    lowest, highest = np.nanmin(values), np.nanmax(values)
    if logarithmic and highest > 10 * lowest > 0:
        axes.set_yscale("log")
        decades = 10.0 ** np.arange(np.floor(np.log10(lowest)), np.ceil(np.log10(highest)) + 1)
        ticks = [
            tick for decade in decades for tick in (decade, 2 * decade, 5 * decade) if lowest / 2 < tick < highest * 2
        ]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
        axes.set_ylim(lowest / 1.3, highest * 1.3)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.set_ylim(0, 1.08 * highest if highest > 0 else 1)


def _label_lines(axes: Axes, panel: Panel) -> None:
    """Write the name of each line beside its last point, in its colour; names that would overlap move apart."""
    labelled = [line for line in panel.lines if line.label]
    if not labelled:
        return
    ends = []
    for line in labelled:
        last = np.flatnonzero(np.isfinite(line.trend))[-1]
        in_window = axes.transData.transform((line.steps[last], line.trend[last]))
        ends.append(axes.transAxes.inverted().transform(in_window)[1])
    line_height = 13 / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    for line, y in zip(labelled, spread(ends, line_height), strict=True):
        axes.annotate(
            line.label,
            xy=(1, y),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=line.colour,
            va="center",
            fontsize=9.5,
            annotation_clip=False,
        )


def spread(positions: Sequence[float], spacing: float) -> list[float]:
    """Move positions as little as possible so that neighbours are at least `spacing` apart, in the same order."""
    order = np.argsort(positions, kind="stable")
    ramp = spacing * np.arange(len(order))
    # Subtracting the ramp turns "at least spacing apart" into "non-decreasing": pool neighbours that violate it.
    pools: list[list[float]] = []
    for value in np.asarray(positions, dtype=float)[order] - ramp:
        pools.append([value, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            value_b, size_b = pools.pop()
            value_a, size_a = pools.pop()
            pools.append([(value_a * size_a + value_b * size_b) / (size_a + size_b), size_a + size_b])
    placed = np.repeat([value for value, _ in pools], [int(size) for _, size in pools]) + ramp
    result = np.empty(len(order))
    result[order] = placed
    return result.tolist()
