"""When a run is saved, and how it resumes and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cot_components.data.rows.batches import Step
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.models.export import family_of
from cot_components.runs.checkpoint import write_checkpoint
from cot_components.runs.layout import CHECKPOINTS
from cot_components.runs.same_config import config_hash
from cot_components.runs.signals import defer_stops, exit_code, stop_received
from cot_components.secrets import without_secrets
from cot_components.training.batching import frozen_facts, plan_facts, refuse_other_plan
from cot_components.training.card import write_card
from cot_components.training.evaluations import Evaluations
from cot_components.training.export import export_checkpoint
from cot_components.training.loop import Trainer
from cot_components.training.resume.state import MODEL, OPTIMIZER, capture, masters, require_finite, restore
from cot_components.training.run_log import RunLog
from cot_components.training.setup import Run


class Saver:
    """Saves a run at step boundaries, restores a resumed run, stops a run that got a signal.

    Args:
        run: this process and its folder.
        config: the recipe's arguments, kept in every checkpoint. These are read here: `save_every_n_steps` (None for
            never), `save_every_minutes` (None for never; with both None only a signal saves), `keep_checkpoints`, and
            `export_checkpoints` (whether each contains a folder for `transformers` or `peft`).

    Raises:
        UserError: a number that is not positive.
    """

    def __init__(self, run: Run, config: Mapping[str, Any]) -> None:
        for name in ("save_every_n_steps", "save_every_minutes", "keep_checkpoints"):
            if config[name] is not None and not config[name] > 0:
                raise UserError(f"{name} must be positive, got {config[name]}")
        self._run, self._config = run, config
        self._every_n_steps: int | None = config["save_every_n_steps"]
        self._every_minutes: float | None = config["save_every_minutes"]
        self._save_asked = self._stop_asked = False

    def begin(
        self, trainer: Trainer, plans: Plans, data: ReasoningDataset, evaluations: Evaluations, log: RunLog
    ) -> None:
        """Restore a resumed run; from now on a signal waits for the end of a step.

        Call it last before training, when everything is built, because building draws random numbers.

        Raises:
            UserError: a model that cannot be written as a Hugging Face folder; a checkpoint of another model or plan,
                or of a run with different frozen weights.
        """
        family_of(trainer.model)  # refuse a model that cannot be exported before training it
        self._trainer, self._data, self._evaluations, self._log = trainer, data, evaluations, log
        self._done, self._total = plans.start_step, plans.total_steps
        evaluations.rescue = self.rescue
        frozen = self._run.world.first_decides(lambda: frozen_facts(trainer.model, trainer.reference, self._config))
        self._facts = plan_facts(data, plans) | frozen | {"products": self._run.precision.dtype}
        if self._run.earlier is not None:
            refuse_other_plan(self._run.earlier, self._facts)
            restore(trainer, self._run.earlier.path, self._run.earlier.state)
            state = self._run.earlier.state
            evaluations.take_up(state["evaluations"], state.get("evaluation_hashes", {}))
        self._saved_at = time.monotonic()
        defer_stops()

    def asks(self) -> tuple[float, float]:
        """This process's requests to all: save, stop. Their sums over all processes go to `agreed`."""
        late = self._every_minutes is not None and time.monotonic() - self._saved_at > 60 * self._every_minutes
        return float(late and self._run.world.is_first), float(stop_received() is not None)

    def agreed(self, save: float, stop: float) -> None:
        """Record the sums of all processes' requests."""
        self._save_asked, self._stop_asked = save > 0, stop > 0

    def before_first_step(self) -> None:
        """Stop here if a signal came while the run was evaluated before its first step."""
        self.agreed(*self._run.world.sum(list(self.asks())))
        if self._stop_asked:
            self._stop()

    def after_step(self, step: Step) -> None:
        """Save if due; end the run if a signal came.

        Raises:
            SystemExit: after a signal: 143 for SIGTERM, 130 for SIGINT.
            UserError: the checkpoint cannot be written.
            NonFiniteError: a weight is not finite; nothing is written.
        """
        self._done = step.clock.step + 1
        by_policy = self._every_n_steps is not None or self._every_minutes is not None
        due = self._every_n_steps is not None and self._done % self._every_n_steps == 0
        if due or self._save_asked or (by_policy and self._done == self._total):
            self.save()
        if self._stop_asked or self._evaluations.interrupted:
            self._stop()

    def rescue(self, step: Step) -> None:
        """Save a step whose evaluation failed; impossible with several processes, because one may have failed alone."""
        if self._run.world.size == 1 and (self._every_n_steps is not None or self._every_minutes is not None):
            self._done = step.clock.step + 1
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the steps done so far; all processes must call it together."""
        tensors, state = capture(self._trainer)
        state |= {
            "step": self._done,
            "plan": self._facts,
            "boundaries": self._evaluations.stages.boundaries,
            "evaluations": [step for step, _ in self._evaluations.done],
            "evaluation_hashes": self._evaluations.hashes,
            "best": best_evaluation([(step, result.metrics()) for step, result in self._evaluations.done]),
            "log_bytes": self._log.size(),
            "config": without_secrets(self._config),
            "config_hash": config_hash(self._config),
        }
        folder, keep = self._run.output_dir / CHECKPOINTS, self._config["keep_checkpoints"]

        def export(checkpoint: Path) -> None:
            if self._config["export_checkpoints"]:
                weights = tensors[MODEL] | masters(tensors[OPTIMIZER])
                rounded = partial(self._run.precision.exported, step=self._done)
                model, data, steps = self._trainer.model, self._data, {"step": self._done, "total_steps": self._total}
                made = export_checkpoint(model, checkpoint, weights, data, self._config, rounded)
                write_card(made, model, data, self._evaluations.done, **steps)

        def write() -> None:
            require_finite(self._trainer.model, tensors[MODEL], num_steps=self._done)
            options: dict[str, Any] = {"add_files": export, "keep": keep, "say": self._log.say}
            write_checkpoint(folder, self._done, tensors=tensors, state=state, **options)

        self._run.world.first_decides(write)
        self._saved_at = time.monotonic()

    def _stop(self) -> None:
        self.save()
        self._log.say(
            f"stopped by a signal after {self._done} of {self._total} steps; the same command resumes from here"
        )
        self._log.close()
        self._run.world.close()
        raise SystemExit(exit_code(stop_received()))


def best_evaluation(measured: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, Any] | None:
    """The best evaluation so far: highest `answer_accuracy`, else lowest `val_loss`; None if nothing was measured.

    NaN never wins; ties go to the first.
    """
    for metric, sign in (("answer_accuracy", 1.0), ("val_loss", -1.0)):
        values = [(sign * m[metric], -step) for step, m in measured if math.isfinite(m.get(metric, math.nan))]
        if values:
            value, step = max(values)
            return {"metric": metric, "value": sign * value, "step": -step}
    return None
