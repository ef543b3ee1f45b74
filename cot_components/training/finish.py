"""What a run leaves behind: a Hugging Face folder, every evaluation, a token view, the curves, and a summary on the
screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor

from cot_components.clock import Clock
from cot_components.data.flat import Flat
from cot_components.datasets import ReasoningDataset
from cot_components.evaluation.table import summary_table
from cot_components.models.export import adapted_modules
from cot_components.training.answers import Evaluations
from cot_components.training.distributed import full_weights
from cot_components.training.export import RULES, export_adapters, export_model
from cot_components.training.loop import Trainer
from cot_components.training.run_folder import (
    ADAPTER_FOLDER,
    CURVES,
    MODEL_FOLDER,
    REPORT,
    TOKENS,
    mark_finished,
    writing,
)
from cot_components.training.run_log import RunLog
from cot_components.training.setup import Run
from cot_components.training.state import require_finite
from cot_components.viz.curves import plot_run
from cot_components.viz.log import read_log
from cot_components.viz.panels import run_panels
from cot_components.viz.report import report_html
from cot_components.viz.token_view import TokenView

SHOWN_ROWS = 4


def finish(
    run: Run,
    trainer: Trainer,
    data: ReasoningDataset,
    evaluations: Evaluations,
    log: RunLog,
    *,
    checkpointer: Mapping[str, Any] | None,
    tokenizer: Mapping[str, Any],
    clocks: Mapping[str, Clock],
) -> None:
    """Write the run's results; the first process alone touches files.

    Args:
        run: folder and process.
        trainer, data, evaluations, log: of the run.
        checkpointer: node of the starting weights, whose config.json is kept where the model does not decide.
        tokenizer: node of the tokenizer, whose files go with the weights.
        clocks: times that the token view shows, by name: `plans.epoch_clocks()`, or the stages of a curriculum.

    Raises:
        NonFiniteError: a weight is not finite; nothing is exported.
        UserError: the disk refuses a file.
    """
    weights = full_weights(trainer.model)
    run.world.first_decides(lambda: require_finite(trainer.model, weights, num_steps=log.total_steps))
    log.speed(trainer.model)
    log.close()
    if run.world.is_first:
        nodes = {"checkpointer": checkpointer, "tokenizer": tokenizer}
        with writing(run.output_dir):
            _write(run, trainer, data, evaluations, weights, nodes, clocks)
    run.world.close()


def _write(
    run: Run,
    trainer: Trainer,
    data: ReasoningDataset,
    evaluations: Evaluations,
    weights: dict[str, Tensor],
    nodes: Mapping[str, Any],
    clocks: Mapping[str, Clock],
) -> None:
    folder = run.output_dir / MODEL_FOLDER
    with writing(folder):
        export_model(trainer.model, folder, weights, data, nodes)
    written = {"model": folder}
    if adapted_modules(trainer.model):
        written["adapter"] = export_adapters(trainer.model, run.output_dir / ADAPTER_FOLDER, weights)
    written["token view"] = token_view(data, clocks=clocks).save(run.output_dir / TOKENS)
    if run_panels(read_log(run.output_dir)):  # none with log_every_n_steps=0 and nothing evaluated
        written["curves"] = plot_run(run.output_dir, run.output_dir / CURVES)
    report = run.output_dir / REPORT
    report.write_text(report_html(run.output_dir), encoding="utf-8")
    written["report"] = report
    mark_finished(run.output_dir, evaluations=[step for step, _ in evaluations.done])

    console = Console()
    scored = {f"step {step}" if step else "before": result for step, result in evaluations.done if result.examples}
    if scored:
        first, last = next(iter(scored)), list(scored)[-1]
        shown = {first: scored[first]} if len(scored) > 1 else {}
        console.print(summary_table(**shown, after=scored[last]))
    for name, path in written.items():
        console.print(f"{name:<12}{path}", soft_wrap=True, highlight=False)
    if not (folder / RULES).is_file():
        note = f"model has no {RULES}, which other software reads; put that of the base model there"
        console.print(note, soft_wrap=True, highlight=False)


def token_view(data: ReasoningDataset, *, rows: int = SHOWN_ROWS, clocks: Mapping[str, Clock]) -> TokenView:
    """What the run trains on, token by token: the first rows at each of the times `clocks`; once where these agree."""
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
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "labels", "weights"))
