"""Stepwise internalisation in one picture: what is still right when more and more of the thought is gone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cot_components.errors import UserError
from cot_components.runs.log import Record, as_number, read_log, series
from cot_components.viz.curves import drawing, literal, picture_path, run_names, scale_values
from cot_components.viz.theme import RUN_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_by_removal(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every evaluation of a run, in order: units removed by then, answer accuracy, and the step, `[E]` each."""
    found = [[as_number(r.get(name)) for name in ("removed", "answer_accuracy", "step")] for r in records]
    columns = np.array(found, dtype=np.float64).reshape(-1, 3)
    columns = columns[np.isfinite(columns).all(axis=1)]
    return columns[:, 0], columns[:, 1], columns[:, 2]


def plot_internalisation(run_dirs: Sequence[str | Path], path: str | Path) -> Path:
    """Two panels from the logs of the runs: accuracy against removed tokens, and the loss on answers against steps,
    which jumps with every removal and comes back.

    A run that never changes how much it removes (explicit or no chain-of-thought) is its last accuracy, a diamond; the
    end of the others is a square.

    Args:
        run_dirs: folders with `log.jsonl` of `icot_sft`; each is named by its folder.
        path: the PNG (or any type matplotlib writes) to make.

    Raises:
        UserError: one run twice, no log, no evaluation with `removed` in one, or no type of picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with drawing():
        figure = Figure(figsize=(10.4, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        losses: list[np.ndarray] = []
        for run_dir, name, colour in zip(run_dirs, run_names([Path(d) for d in run_dirs]), cycle(RUN_COLOURS)):
            records = read_log(run_dir)
            removed, accuracy, _ = accuracy_by_removal(records)
            if not len(removed):
                raise UserError(f"{run_dir}: the log holds no evaluation that says how much was removed")
            _draw_accuracy(left, removed, accuracy, colour, literal(name))
            steps, loss = series(records, "loss_answer")
            right.plot(steps, loss, color=colour, linewidth=0.9)
            losses.append(loss)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(xlabel="tokens of the thought removed", ylabel="held-out answers right", ylim=(-0.03, 1.05))
        right.set(xlabel="step", ylabel="loss on answers, nats")
        scale_values(right, np.concatenate(losses), logarithmic=True)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        path = picture_path(path)
        figure.savefig(path, dpi=160)
    return path


def _draw_accuracy(axes: Axes, removed: np.ndarray, accuracy: np.ndarray, colour: str, name: str) -> None:
    """A line through the last evaluation of every stage but the last, where it is the first: what training gains after
    everything is gone goes straight up from there. All others are rings.
    """
    stage = np.floor(removed + 1e-6)  # smoothing adds a little to the stage
    if len(np.unique(stage)) == 1:
        axes.plot(stage[-1:], accuracy[-1:], "D", color=colour, markersize=7, label=f"{name} (always the same)")
        return
    on_line = np.append(stage[1:] != stage[:-1], False)
    arrived = np.flatnonzero(stage == stage[-1])[0]
    on_line[arrived] = True
    style: Any = {"color": colour, "markersize": 4}
    axes.plot(stage[~on_line], accuracy[~on_line], "o", markerfacecolor="none", alpha=0.5, **style)
    axes.plot(stage[on_line], accuracy[on_line], "o-", label=f"{name} (rings: within a stage)", **style)
    axes.plot([stage[-1]] * 2, [accuracy[arrived], accuracy[-1]], ":", color=colour, linewidth=1.2)
    axes.plot(stage[-1:], accuracy[-1:], "s", color=colour, markersize=6, label=f"{name}, at the end")
