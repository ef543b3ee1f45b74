"""The training loop: fetch a step, count, forward and backward, check, clip, update, log.

It knows nothing about methods: the loader decides which tokens are present and counted, the loss what the model is
pulled toward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cot_components.data.rows.batches import Batch, Step
from cot_components.errors import UserError
from cot_components.training.distributed import World
from cot_components.training.meters import StepMeter


class NonFiniteError(UserError):
    """A step's loss, gradient or learning rate is not finite (raised before the update), or a weight to be saved is
    not."""


class Saver(Protocol):
    """What the loop needs for saving and stopping; see `training.resume.saver.Saver`.

    Clocks differ between processes, and a signal may reach only one of them, but all must save and stop after the same
    step. So each process states its requests at the start of a step (`asks`). They are summed over all processes,
    together with the token counts. Each process gets the same two sums back (`agreed`) and acts on them after the step
    (`after_step`).
    """

    def asks(self) -> tuple[float, float]:
        """What this process requests after the coming step: `(save, stop)`, each 1 for yes and 0 for no."""

    def agreed(self, save: float, stop: float) -> None:
        """Record the sums of `asks` over all processes: above 0 means that at least one requests it."""

    def before_first_step(self) -> None:
        """Called once, before the first step: stop here if a process got a signal before training began.

        Raises:
            SystemExit: a signal stopped the run.
        """

    def after_step(self, step: Step) -> None:
        """Called after each step and its `on_step`: save if due or agreed, then stop if agreed.

        Raises:
            SystemExit: a signal stopped the run; everything is saved.
        """


@dataclass
class Trainer:
    """Everything a step works on. A plain record without behaviour.

    Args:
        model: went through `adapt` (and, with several processes, `shard`).
        loss: callable `(hidden, head, labels, weights, *, rows, columns, reference) -> LossOutput`.
        optimizer, lr_scheduler: stepped once per optimizer step.
        device: where batches go.
        world: this process among its peers.
        normalize: `count` divides by the supervised tokens of the whole step, `weight` by the sum of their weights.
        clip_grad_norm: largest gradient norm, None for no clipping.
        plain_loss: negative log-likelihood through the same interface; measures blurred tokens.
        log_blurred_every: steps between two measurements of the loss of blurred tokens; 0 is never.
        reference: the loss's second distribution, for a loss that needs one (see `models.reference`).
    """

    model: Any
    loss: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    device: torch.device
    world: World
    normalize: Literal["count", "weight"] = "count"
    clip_grad_norm: float | None = None
    plain_loss: Callable[..., Any] | None = None
    log_blurred_every: int = 50
    reference: Callable[[Any, Batch], Any] | None = None


def train(
    trainer: Trainer,
    steps: Iterable[Step],
    *,
    on_step: Callable[[Step, dict[str, float]], None],
    before_step: Callable[[Step], None] | None = None,
    saver: Saver | None = None,
) -> None:
    """Train on every step of `steps`, in order.

    Args:
        trainer: model, loss, optimizer and settings.
        steps: finished batches, one `Step` per optimizer step (a data loader).
        on_step: called after each update with the step and what was measured: logging, evaluation, saving.
        before_step: called with each step before it is trained on: a curriculum changes `trainer` here.
        saver: when to save and when to stop (see `training.resume.saver`).

    Raises:
        NonFiniteError: see `NonFiniteError`; the weights are those before the step.
        SystemExit: a signal stopped the run; everything is saved.
    """
    trainer.model.train()
    if saver is not None:
        saver.before_first_step()
    waiting_since = time.perf_counter()
    for step in steps:
        started = time.perf_counter()
        if before_step is not None:
            before_step(step)
        on_step(step, train_step(trainer, step, loader_seconds=started - waiting_since, saver=saver))
        if saver is not None:
            saver.after_step(step)
        waiting_since = time.perf_counter()


def train_step(
    trainer: Trainer, step: Step, *, loader_seconds: float = 0.0, saver: Saver | None = None
) -> dict[str, float]:
    """One optimizer step; returns what was measured, normalised over all processes."""
    model, world, started = trainer.model, trainer.world, time.perf_counter()
    micro_batches = [batch.to(trainer.device) for batch in step.micro_batches]

    # The denominator is known before the first backward, so 8 micro-batches of 1 row and 1 of 8 rows are the same step.
    # The requests of all processes (save, stop) are summed along with it.
    counts = [float(sum(getattr(batch, name) for batch in micro_batches)) for name in _COUNTS]
    count, weight, tokens, seen, *asked = world.sum([*counts, *(saver.asks() if saver else ())])
    if saver is not None:
        saver.agreed(*asked)
    denominator = count if trainer.normalize == "count" else weight
    if denominator == 0:
        return {"skipped": 1.0, "supervised_fraction": 0.0}

    meter = StepMeter(trainer.device)
    for index, batch in enumerate(micro_batches):
        world.sync_gradients(model, index == len(micro_batches) - 1)
        out = model.loss(trainer.loss, batch, reference=trainer.reference)
        # FSDP averages the gradients of the processes; multiplying by their number makes it the sum that the
        # denominator belongs to.
        (out.objective * (world.size / denominator)).backward()
        meter.add(out, batch)
    if (
        trainer.plain_loss is not None
        and trainer.log_blurred_every
        and step.clock.step % trainer.log_blurred_every == 0
    ):
        for batch in micro_batches:
            meter.add_blurred(blurred_nll(model, trainer.plain_loss, batch))

    limit = float("inf") if trainer.clip_grad_norm is None else trainer.clip_grad_norm
    grad_norm = world.full(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
    measured = meter.result(world, count=count, denominator=denominator)
    stop_unless_finite(measured["objective"], float(grad_norm), step, meter, world)

    lr = finite_rate(trainer.optimizer, step)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.lr_scheduler is not None:
        trainer.lr_scheduler.step()

    seconds = time.perf_counter() - started + loader_seconds
    return measured | {
        "lr": lr,
        "grad_norm": float(grad_norm),
        "supervised_fraction": count / max(tokens, 1.0),
        "tokens_per_second": tokens / seconds,
        "supervised_tokens_per_second": count / seconds,
        "loader_wait_fraction": loader_seconds / seconds,
        "step_seconds": seconds,
        "context_tokens": seen / max(tokens, 1.0),
    }


_COUNTS = ("num_supervised", "weight_sum", "num_tokens", "seen_tokens")


@torch.no_grad()
def blurred_nll(model: Any, plain_loss: Callable[..., Any], batch: Batch) -> Tensor:
    """Negative log-likelihood of the tokens whose label a transform removed, fp32 `[m]`. Costs a forward pass."""
    return model.loss(plain_loss, batch, labels=batch.next_tokens, rows=batch.blurred_rows).nll


def stop_unless_finite(objective: float, grad_norm: float, step: Step, meter: StepMeter, world: World) -> None:
    """Raise before the update when the loss or the gradient norm is NaN or infinite.

    Raises:
        NonFiniteError: names the step, and the rows whose own loss is not finite (if none, all rows of the step).
    """
    if torch.isfinite(torch.tensor([objective, grad_norm])).all():
        return
    bad = [row for ids in world.gather(meter.non_finite_ids()) for row in ids]
    ids = bad or [row for batch in step.micro_batches for row in batch.ids]
    shown = ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
    raise NonFiniteError(
        f"step {step.clock.step}: loss {objective:g}, gradient norm {grad_norm:g}; "
        f"stopped before the update. Row ids: {shown}"
    )


def finite_rate(optimizer: torch.optim.Optimizer, step: Step) -> float:
    """The learning rate of the coming update: that of the first group.

    Raises:
        NonFiniteError: some group's is NaN, or too large for a weight.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for rate in rates:
        if not abs(rate) <= torch.finfo(torch.float32).max:
            raise NonFiniteError(f"step {step.clock.step}: learning rate {rate:g}; stopped before the update")
    return rates[0]
