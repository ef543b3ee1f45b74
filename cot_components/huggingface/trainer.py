"""Our losses in the trainers of `transformers` and TRL, on batches of `ReasoningCollator`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.errors import UserError
from cot_components.huggingface.collator import EVAL, ReasoningCollator
from cot_components.huggingface.settings import refuse_divided_rows, refuse_settings
from cot_components.losses.loss import Loss
from cot_components.losses.presets import sft
from cot_components.losses.types import TopK
from cot_components.models.reference import TopKFile
from cot_components.roles import IGNORE, Role
from cot_components.stages import NoCurriculum
from cot_components.training.refusals import REFUSALS, Combination

READ = ("input_ids", "attention_mask", "position_ids")
"""The part of a batch that the model reads."""
COLUMNS = {"roles": int(Role.PAD), "groups": 0}
"""Columns of a batch that a loss may read, and their values for padding."""
EXACT = 1e-3
"""Largest accepted difference between the model's logits and its head's, relative to the largest logit."""


class ReasoningTrainerMixin:
    """Put before `transformers.Trainer` or a subclass such as TRL's `SFTTrainer`: our losses on our data sets.

    In training, the loss of an optimizer step is the sum of the objective over its supervised tokens on all processes,
    divided by their number, however they are distributed over micro-batches. In evaluation it is the plain negative
    log-likelihood of held-out tokens with a label, in nats: a mean per batch, which the trainer averages over batches,
    so with rows of uneven length it depends on the batch size.

    Args:
        model, args: the trainer's. Of `args`, `remove_unused_columns` and, for `SFTTrainer`, the preparation of the
            data set are switched off: rows are already encoded.
        train_dataset: such as `reasoning_dataset(...)`; its masks are redrawn every epoch, also in loader workers and
            resumed runs.
        eval_dataset: held-out rows, or several by name.
        loss: of `cot_components.losses`; None is `sft()`.
        reference: the loss's second distribution: a frozen `transformers` model with the same vocabulary, or a
            `TopKFile`.
        fused: put only the supervised rows through the head, chunk by chunk, instead of computing all logits. Needs a
            plain linear head that is complete on each process (not under FSDP).
        more: further arguments of the trainer.

    Raises:
        UserError: parts that do not go together (see `training.refusals`); a setting of the trainer that would change
            the loss or be left out of it (see `NEUTRAL` in `settings`); a reference of another kind; a head that
            `fused` does not know; see `ReasoningCollator`.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        train_dataset: ReasoningDataset,
        eval_dataset: ReasoningDataset | Mapping[str, ReasoningDataset] | None = None,
        loss: Loss | None = None,
        reference: Any = None,
        fused: bool = False,
        **more: Any,
    ) -> None:
        refuse_settings(args, more)
        held_out = {EVAL: eval_dataset} if isinstance(eval_dataset, ReasoningDataset) else dict(eval_dataset or {})
        self.collator = ReasoningCollator(train_dataset, **held_out)
        self.reasoning_loss, self.fused = loss or sft(), fused
        if hasattr(args, "dataset_kwargs"):  # TRL would tokenise
            args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
        parts = {name: self.collator.rows(name) for name in held_out}
        super().__init__(
            model,
            args,
            data_collator=self.collator,
            train_dataset=self.collator.rows(),
            eval_dataset=parts.get(EVAL) if list(parts) == [EVAL] else parts or None,
            **more,
        )  # type: ignore[call-arg]
        own: Any = self
        own.args.remove_unused_columns = False
        own.model_accepts_loss_kwargs = True  # the trainer counts a step's labels; the loss divides by them
        own.add_callback(_tells_epochs(self.collator))
        refuse_divided_rows(own)
        _refuse(self.reasoning_loss, reference, train_dataset, own)
        self.reference = _prepared(reference, train_dataset, own)
        self._checked = not fused

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The trainer's loss of a micro-batch of `ReasoningCollator`, an fp32 scalar; with the model's outputs on
        request.

        `num_items_in_batch` divides the sum; None divides it by the supervised tokens of the batch.
        """
        own: Any = self
        labels = _next(inputs["labels"], IGNORE)
        read = {name: inputs[name] for name in READ if name in inputs}
        if not model.training:
            outputs = model(**read, use_cache=False)
            total = sft().from_logits(outputs.logits.flatten(0, 1), labels).objective.sum()
        else:
            outputs, total = self._objective(model, read, labels, inputs)
        count = (labels != IGNORE).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = total / count.to(total.device).clamp(min=1)
        if num_items_in_batch is not None and own.args.average_tokens_across_devices:
            loss = loss * own.accelerator.num_processes  # the divisor sums over processes, gradients average
        return (loss, outputs) if return_outputs else loss

    def _objective(self, model: Any, read: dict[str, Tensor], labels: Tensor, inputs: Mapping[str, Any]) -> Any:
        """The model's outputs and the sum of the objective."""
        columns = {name: _next(inputs[name], empty) for name, empty in COLUMNS.items() if name in inputs}
        sample = torch.arange(len(read["input_ids"]), device=labels.device)[:, None].expand_as(read["input_ids"])
        weights, columns = _next(inputs["weights"], 0.0), {**columns, "sample": sample.flatten()}
        reference = self._reference_of(read, inputs)
        if self.fused:
            self._check_head(read)
            outputs, (hidden, head) = None, _headless(model, self.model, read)  # type: ignore[attr-defined]
            out = self.reasoning_loss.fused(hidden, head, labels, weights, columns=columns, reference=reference)
        else:
            outputs = model(**read, use_cache=False)
            logits = outputs.logits.flatten(0, 1)
            out = self.reasoning_loss.from_logits(logits, labels, weights, columns=columns, reference=reference)
        return outputs, out.objective.sum()

    @torch.no_grad()
    def _reference_of(self, read: dict[str, Tensor], inputs: Mapping[str, Any]) -> Any:
        """The loss's `reference`: for a model, its logits, or hidden states and head if `fused`."""
        if isinstance(self.reference, TopKFile):
            return _stored(self.reference, read["attention_mask"], inputs["row_ids"])
        if self.reference is None:
            return None
        if self.fused:
            return _headless(self.reference, self.reference, read)
        return self.reference(**read, use_cache=False).logits.flatten(0, 1)

    @torch.no_grad()
    def _check_head(self, read: dict[str, Tensor]) -> None:
        """Once, on one row: raise UserError if hidden states times head are not the model's logits."""
        models = [] if self._checked else [self.model, self.reference]  # type: ignore[attr-defined]
        self._checked = True
        for model in models:
            if isinstance(model, nn.Module):
                training, row = model.training, {name: values[:1] for name, values in read.items()}
                model.eval()
                logits = model(**row, use_cache=False).logits.flatten(0, 1)
                hidden, head = _headless(model, model, row)
                model.train(training)
                if not (hidden @ head.T - logits).abs().max() <= EXACT * logits.abs().max():
                    raise UserError("fused: the logits of this model are not its hidden states times its head")


def _next(values: Tensor, empty: float) -> Tensor:
    """Values aligned with the tokens `[B, T]`, moved to the positions that predict them, `[B * T]`."""
    return F.pad(values, (0, 1), value=empty)[:, 1:].flatten()


def _stored(reference: TopKFile, attention_mask: Tensor, row_ids: Tensor) -> TopK:
    positions = torch.arange(1, attention_mask.shape[1] + 1).expand(attention_mask.shape)
    positions = positions.masked_fill(_next(attention_mask.cpu(), 0).view_as(positions) == 0, -1)
    rows = row_ids.cpu()[:, None].expand_as(positions)
    found = reference.store.lookup(rows.flatten().numpy(), positions.flatten().numpy())
    return TopK(*(column.to(attention_mask.device) for column in found))


def _headless(model: Any, inner: Any, read: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The head's input, `[B * T, d]`, and its weight, from a full forward of the (possibly wrapped) model.

    Raises:
        UserError: a head that is more than one matrix.
    """
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        kind = type(head).__name__ + " with a bias" * (getattr(head, "bias", None) is not None)
        raise UserError(f"fused: the head of this model is a {kind}; only a plain linear layer will do")
    with _passing(head):
        return model(**read, use_cache=False).logits.flatten(0, 1), head.weight


@contextmanager
def _passing(head: nn.Module) -> Iterator[None]:
    """Inside the block, the head returns its input."""
    head.forward = lambda hidden: hidden  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def _tells_epochs(collator: ReasoningCollator) -> Any:
    """A callback that passes each epoch to the collator before it begins, also in resumed runs."""
    from transformers import TrainerCallback

    class TellEpochs(TrainerCallback):
        following = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.following = int(state.epoch or 0)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            collator.set_epoch(self.following)
            self.following += 1

    return TellEpochs()


def _refuse(loss: Loss, reference: Any, data: ReasoningDataset, trainer: Any) -> None:
    """Raise UserError if parts do not combine, as a recipe does."""
    combination = Combination(
        loss=loss,
        selectors={},  # rows are chosen already
        transforms=data.transforms,
        curriculum=NoCurriculum(),
        reference=reference,
        packed=False,
        parts=trainer.args.gradient_accumulation_steps * trainer.accelerator.num_processes,
        adapters=None,
        trainable=None,
        evaluation=False,
        held_out=False,
    )
    for refusal in REFUSALS:
        if sentence := refusal(combination):
            raise UserError(sentence)


def _prepared(reference: Any, data: ReasoningDataset, trainer: Any) -> Any:
    """The reference, frozen and on the trainer's device."""
    if isinstance(reference, TopKFile):
        student = SimpleNamespace(tok_embeddings=trainer.model.get_input_embeddings())
        reference.prepare(student, data, device=trainer.args.device, dtype=next(trainer.model.parameters()).dtype)
    elif isinstance(reference, nn.Module):
        reference.to(trainer.args.device).eval().requires_grad_(False)
    elif reference is not None:
        raise UserError(f"reference: a {type(reference).__name__} is neither a model of transformers nor a TopKFile")
    return reference
