"""The results of a run: a Hugging Face folder, every evaluation, a token view, the curves, and a printed summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor

from cot_components.clock import Clock
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.flat import Flat
from cot_components.errors import UserError
from cot_components.evaluation.table import summary_table
from cot_components.files import writing
from cot_components.models.lora_layers import adapted_modules
from cot_components.runs.finished import mark_finished
from cot_components.runs.layout import ADAPTER, CURVES, MODEL, REPORT, TOKENS
from cot_components.runs.log import read_log
from cot_components.secrets import without_secrets
from cot_components.training.card import write_card
from cot_components.training.evaluations import Evaluations
from cot_components.training.export import RULES, export_adapters, export_model
from cot_components.training.loop import Trainer
from cot_components.training.resume.state import require_finite, trained_weights
from cot_components.training.run_log import RunLog
from cot_components.training.setup import Run
from cot_components.viz.console import plain_console
from cot_components.viz.curves import plot_run
from cot_components.viz.panels import run_panels
from cot_components.viz.report import report_html
from cot_components.viz.token_view import TokenView
from cot_components.viz.visible import one_line

SHOWN_ROWS = 4


def finish(
    run: Run,
    trainer: Trainer,
    data: ReasoningDataset,
    evaluations: Evaluations,
    log: RunLog,
    *,
    tokenizer: Mapping[str, Any],
    clocks: Mapping[str, Clock],
) -> None:
    """Write the run's results; only the first process touches files.

    Args:
        run: folder and process.
        trainer, data, evaluations, log: of the run.
        tokenizer: node of the tokenizer, whose files are exported with the weights.
        clocks: the times shown in the token view, by name: `plans.epoch_clocks()`, or the stages of a curriculum.

    Raises:
        NonFiniteError: a weight is not finite; nothing is exported.
        UserError: a result cannot be written. (A picture that cannot be made is only reported.)
    """
    weights = trained_weights(trainer)
    run.world.first_decides(lambda: require_finite(trainer.model, weights, num_steps=log.total_steps))
    log.speed(trainer.model)
    log.close()
    if run.world.is_first:
        nodes = {"tokenizer": tokenizer}
        with writing(run.output_dir):
            _write(run, trainer, data, evaluations, weights, nodes, clocks, log.total_steps)
    run.world.close()


def _write(
    run: Run,
    trainer: Trainer,
    data: ReasoningDataset,
    evaluations: Evaluations,
    weights: dict[str, Tensor],
    nodes: Mapping[str, Any],
    clocks: Mapping[str, Clock],
    num_steps: int,
) -> None:
    out = run.output_dir
    folder = out / MODEL
    with writing(folder):
        rounded = partial(run.precision.exported, step=num_steps)
        export_model(trainer.model, folder, weights, data, nodes, rounded)
    written = {"model": folder}
    if adapted_modules(trainer.model):
        written["adapter"] = export_adapters(trainer.model, out / ADAPTER, weights)
    for made in written.values():
        write_card(made, trainer.model, data, evaluations.done, step=num_steps, total_steps=num_steps)
    refused = mark_finished(out, evaluations=[step for step, _ in evaluations.done])
    pictures: dict[str, Callable[[], Path | None]] = {
        "token view": lambda: token_view(data, clocks=clocks).save(out / TOKENS),
        "curves": lambda: plot_run(out, out / CURVES) if run_panels(read_log(out)) else None,  # none was measured
        "report": lambda: _report(out),
    }
    console, told = plain_console(), [refused] if refused else []
    for name, draw in pictures.items():
        try:
            with writing(out):
                path = draw()
        except Exception as error:  # whatever it is: the results exist, and `cot` can make the pictures later
            said = next(iter(str(error).splitlines()), "")
            told.append(f"no {name}: {said if isinstance(error, UserError) else f'{type(error).__name__}: {said}'}")
        else:
            written |= {name: path} if path else {}
    if not (folder / RULES).is_file():
        told.append(f"model has no {RULES}, which other software reads; copy that of the base model there")
    _show(console, evaluations, written, told)


def _report(out: Path) -> Path:
    path = out / REPORT
    path.write_text(report_html(out), encoding="utf-8")
    return path


def _show(console: Console, evaluations: Evaluations, written: Mapping[str, Path], told: Sequence[str]) -> None:
    scored = {f"step {step}" if step else "before": result for step, result in evaluations.done if result.examples}
    if scored:
        first, last = next(iter(scored)), list(scored)[-1]
        shown = {first: scored[first]} if len(scored) > 1 else {}
        console.print(summary_table(**shown, after=scored[last]))
    for line in (*(f"{name:<12}{path}" for name, path in written.items()), *told):
        console.print(one_line(without_secrets(line)), soft_wrap=True)


def token_view(data: ReasoningDataset, *, rows: int = SHOWN_ROWS, clocks: Mapping[str, Clock]) -> TokenView:
    """What the run trains on, token by token: the first rows at each of the times `clocks`; only once if these
    agree."""
    before = data.rows.flat(range(min(rows, len(data.rows))))
    draws = {}
    for name, clock in clocks.items():
        flat = before
        for transform in data.transforms.values():
            flat = transform(flat, clock)
        draws[name] = flat
    first, *others = draws.values()
    if others and all(_same(first, other) for other in others):
        draws = {"every time": first}
    return TokenView(draws, data.chat.tokenizer.decode, before=before, title="What this run trains on")


def _same(a: Flat, b: Flat) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("read", "labels", "weights"))
