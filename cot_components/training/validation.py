"""Held-out rows in one no-grad pass: loss by role, including tokens that transforms remove from the loss, and right
answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from cot_components.clock import Clock
from cot_components.config import build, walk
from cot_components.data.rows.batches import Batch, pad
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.evaluation.token_losses import TokenLosses, rows_to_show, token_losses
from cot_components.losses.measures import measure
from cot_components.roles import Role
from cot_components.training.loop import Trainer
from cot_components.training.meters import StepMeter
from cot_components.transforms import discriminator


def validation_data(
    dataset: Mapping[str, Any],
    dataset_val: float | str | Mapping[str, Any] | None,
    data: ReasoningDataset,
    tokenizer: Any,
) -> tuple[ReasoningDataset, ReasoningDataset | None]:
    """Training and validation data.

    Args:
        dataset: node of the training data.
        dataset_val: None; a share of the rows (0 to 1) to hold out, before any are selected; a path; or a mapping of
            the keys of `dataset` that differ. `dataset.select` applies to training rows only.
        data: the training data, built.
        tokenizer: for building the validation data.

    Raises:
        UserError: a key of `dataset_val` that a named source of `dataset` sets itself, so that it would have no effect.
    """
    if dataset_val is None:
        return data, None
    if isinstance(dataset_val, (int, float)):
        return data.split_off(float(dataset_val))
    differing = {"source": dataset_val} if isinstance(dataset_val, str) else dict(dataset_val)
    merged = {key: value for key, value in dataset.items() if key != "select"} | differing
    named = merged.get("source")
    for name, source in named.items() if isinstance(named, Mapping) and "source" not in differing else ():
        for key in differing.keys() & (source if isinstance(source, Mapping) else {}):
            raise UserError(
                f"dataset_val.{key} would have no effect, because dataset.source.{name} sets its own {key}; say in "
                "dataset_val.source where the validation data are"
            )
    walk({"dataset_val": merged}, {"dataset_val": ["tokenizer"]})
    return data, build(merged, tokenizer, where="dataset_val")


START = Clock(0, 0)


@torch.no_grad()
def validation_loss(
    trainer: Trainer, data: ReasoningDataset, *, batch_size: int, clock: Clock = START
) -> dict[str, float]:
    """Mean negative log-likelihood of held-out tokens in nats.

    `val_loss` is over every token of thought, tags and answer, whether training would count it or not, so it is
    comparable across methods; `val_loss_thought`, `val_loss_answer` over those that training counts; `val_loss_blurred`
    over those it does not. Rows are transformed as they are at time `clock`.
    """
    assert trainer.plain_loss is not None
    meter, counts = StepMeter(trainer.device), torch.zeros(2, dtype=torch.float64)
    for batch in _held_out_batches(trainer, data, batch_size, clock):
        rows = torch.cat([batch.rows, batch.blurred_rows])
        out = trainer.model.loss(trainer.plain_loss, batch, labels=batch.next_tokens, rows=rows)
        kept, blurred = out.nll.split([len(batch.rows), len(batch.blurred_rows)])
        meter.add(out._replace(nll=kept), batch)
        meter.add_blurred(blurred)
        counts += torch.tensor([len(batch.rows), len(rows)])
    kept_count, all_count = trainer.world.sum(counts.tolist())
    measured = meter.result(trainer.world, count=kept_count, denominator=max(all_count, 1.0))
    return {f"val_{name}": value for name, value in measured.items() if name.startswith("loss")}


@torch.no_grad()
def answers_right(trainer: Trainer, data: ReasoningDataset, *, batch_size: int, clock: Clock = START) -> float:
    """Share of held-out rows in which each token of the answer is the model's first choice, given those before it.

    Nothing is generated, so it costs one forward pass. Rows are transformed as at time `clock`; those without an answer
    do not count. Counts are summed over all processes, so the share is the same on each.
    """
    counts = torch.zeros(2, dtype=torch.float64)
    for batch in _held_out_batches(trainer, data, batch_size, clock):
        rows = (batch.roles.flatten() == Role.ANSWER).nonzero().flatten()
        ranks = trainer.model.loss(FIRST_CHOICE, batch, labels=batch.next_tokens, rows=rows)["rank"]
        answered = batch.sample.flatten()[rows]
        counts += torch.tensor([answered.unique().numel(), -answered[ranks > 1].unique().numel()])
    num_rows, right = trainer.world.sum([float(counts[0]), float(counts.sum())])
    return right / max(num_rows, 1.0)


@torch.no_grad()
def losses_by_token(trainer: Trainer, data: ReasoningDataset, *, clock: Clock = START) -> tuple[TokenLosses, ...]:
    """Losses of a few held-out rows, token by token, those that training does not count included: what a report shows
    as learnt. One batch, the same on every process; rows are transformed as they are at time `clock`.
    """
    assert trainer.plain_loss is not None
    tokenizer = data.chat.tokenizer
    encoded = seen = data.rows.flat(rows_to_show(data.rows.lengths))
    for transform in data.transforms.values():
        seen = transform(seen, clock)
    batch, was_training = pad(seen, pad_id=tokenizer.pad_id).to(trainer.device), trainer.model.training
    rows = torch.cat([batch.rows, batch.blurred_rows])
    trainer.model.eval()
    out = trainer.model.loss(trainer.plain_loss, batch, labels=batch.next_tokens, rows=rows)
    trainer.model.train(was_training)
    positions = torch.full((batch.tokens.numel(),), torch.nan, device=trainer.device)
    positions[rows] = out.nll.float()
    losses = discriminator.token_losses(positions.view(batch.tokens.shape).cpu().numpy(), seen)
    return token_losses(encoded, seen, losses, tokenizer.decode)


FIRST_CHOICE = partial(measure, wanted=("rank",))


def _held_out_batches(trainer: Trainer, data: ReasoningDataset, batch_size: int, clock: Clock) -> Iterator[Batch]:
    """This process's share of the rows, on its device, with the model in evaluation mode meanwhile."""
    plans = Plans(data.rows.lengths, batch_size=batch_size, rank=trainer.world.rank, world_size=trainer.world.size)
    batches, was_training = data.batches(), trainer.model.training
    trainer.model.eval()
    for plan in plans:
        for indices in plan.micro_batches:
            yield batches.batch(indices, clock).to(trainer.device)
    trainer.model.train(was_training)
