"""Where a loss's second distribution comes from: a frozen model, the model itself without its adapters, or a file.

A source is called inside the student's forward, once per micro-batch, and returns what `Loss.fused` takes as
`reference`: hidden states with a head, so that full logits exist only chunk by chunk, or the teacher's `TopK`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from cot_components.data.batches import Batch
from cot_components.errors import UserError
from cot_components.losses.types import Head, Reference
from cot_components.models.adapter import head_of
from cot_components.models.load import check_checkpointer, load_model


class ReferenceSource(Protocol):
    """Gives the reference of a micro-batch."""

    def prepare(self, student: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        """Get ready once, before training; refuses a reference that does not fit the student."""

    def __call__(self, student: Any, batch: Batch) -> Reference:
        """The reference of one micro-batch, without gradients."""
        ...


class FrozenModel:
    """A second model that never learns: the base model of ASFT, the teacher of distillation and Target-SFT.

    Args:
        model: node of a torchtune model builder with the student's tokenizer.
        checkpointer: node of its `FullModelHFCheckpointer`; None for random weights, which only tests want.
    """

    def __init__(self, *, model: Mapping[str, Any], checkpointer: Mapping[str, Any] | None = None) -> None:
        check_checkpointer(checkpointer)
        self._model, self._checkpointer = model, checkpointer
        self.teacher: Any = None

    def prepare(self, student: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights.

        Raises:
            UserError: the vocabularies differ in size; names both.
        """
        self.teacher = (
            load_model(self._model, self._checkpointer, device=device, dtype=dtype).eval().requires_grad_(False)
        )
        ours, theirs = (m.tok_embeddings.num_embeddings for m in (student, self.teacher))
        if ours != theirs:
            raise UserError(
                f"reference: its vocabulary has {theirs} tokens, the model's has {ours}; they must be the same"
            )

    @torch.no_grad()
    def __call__(self, student: Any, batch: Batch) -> tuple[Tensor, Head]:
        return self.teacher.forward(batch.tokens, input_pos=batch.input_pos).flatten(0, 1), head_of(self.teacher)


class AdaptersOff:
    """The model itself with its LoRA adapters switched off: the base model at no cost in memory."""

    def prepare(self, student: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        """Raises UserError for a model without adapters."""
        if not any(hasattr(module, "lora_a") for module in student.modules()):
            raise UserError("reference: the model has no LoRA adapters to switch off; use a frozen model")

    @torch.no_grad()
    def __call__(self, student: Any, batch: Batch) -> tuple[Tensor, Head]:
        from torchtune.modules.peft import disable_adapter

        with disable_adapter(student):
            return student.forward(batch.tokens, input_pos=batch.input_pos).flatten(0, 1), head_of(student)


def reference_for(
    loss: Any, source: ReferenceSource | None, student: Any, *, device: torch.device, dtype: torch.dtype
) -> ReferenceSource | None:
    """The prepared reference of a loss, None where the loss needs none.

    Raises:
        UserError: the loss needs a reference and there is none, or the other way round, or it does not fit the student.
    """
    if loss.needs_reference != (source is not None):
        verb = "needs a reference; name one" if source is None else "takes no reference; remove it"
        raise UserError(f"the loss {loss.name} {verb} in the key 'reference'")
    if source is not None:
        source.prepare(student, device=device, dtype=dtype)
    return source
