"""A new optimizer, a new learning-rate schedule, or both, in the middle of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cot_components.clock import Clock
from cot_components.config import build
from cot_components.stages import Stages
from cot_components.training.loop import Trainer
from cot_components.training.setup import Run, build_optimizer


def restart(
    trainer: Trainer,
    stages: Stages,
    clock: Clock,
    *,
    optimizer: Mapping[str, Any],
    lr_scheduler: Mapping[str, Any] | None,
    run: Run,
    total_steps: int,
    forget: bool = False,
) -> None:
    """Give `trainer` a new optimizer, a new schedule, both or neither, as the curriculum requires at `clock`.

    A new optimizer starts with fresh moments; the schedule continues unless it restarts too. A new schedule spans the
    remaining steps; the optimizer keeps its moments unless it is reset too.

    Args:
        trainer: changed in place.
        optimizer, lr_scheduler, run: see `build_optimizer`.
        total_steps: of the run.
        forget: build a new optimizer whatever the curriculum says.
    """
    reset, again = forget or stages.resets_optimizer(clock), stages.restarts_schedule(clock)
    if not (reset or again):
        return
    num_steps = total_steps - stages.last_restart(before=clock.step + 1)
    before, schedule = trainer.optimizer, trainer.lr_scheduler
    if reset:
        trainer.optimizer, trainer.lr_scheduler = build_optimizer(
            optimizer, lr_scheduler, trainer.model, run, num_steps=num_steps, before=before
        )
    else:
        for group in before.param_groups:
            group["lr"] = group.pop("initial_lr", group["lr"])
        trainer.lr_scheduler = build(lr_scheduler, before, where="lr_scheduler", num_training_steps=num_steps)
    if not again and schedule is not None:
        trainer.lr_scheduler.load_state_dict({**trainer.lr_scheduler.state_dict(), **schedule.state_dict()})
        for group, old in zip(trainer.optimizer.param_groups, before.param_groups, strict=True):
            group["lr"] = old["lr"]
