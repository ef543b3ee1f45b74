"""Use a loss of this project in a `transformers` or TRL trainer; neither is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cot_components.errors import UserError
from cot_components.losses.loss import Loss


def hf_loss(loss: Loss) -> Callable[..., Tensor]:
    """A loss for `transformers.Trainer(compute_loss_func=...)`: `hf_loss(losses.dft())`.

    The trainer passes a model's outputs and unshifted labels, and nothing else: a loss that needs a reference or
    columns is refused, and per-token weights cannot reach it. Normalised like the trainer's own loss: by
    `num_items_in_batch` of the whole optimizer step if the trainer passes it, else by the batch's supervised tokens.

    Raises:
        UserError: the loss needs more than logits and labels.
    """
    if loss.needs:
        raise UserError(
            f"{loss.name} needs {', '.join(loss.needs)}, which a Trainer does not pass to its loss function"
        )
    return partial(_trainer_loss, loss)


def _trainer_loss(loss: Loss, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    logits: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    # The labels move, not the logits: a slice of the logits would be copied to be flattened.
    shifted = F.pad(labels, (0, 1), value=loss.ignore_index)[..., 1:].flatten()
    total = loss.from_logits(logits.flatten(0, -2), shifted).objective.sum()
    if num_items_in_batch is None:
        return total / (shifted != loss.ignore_index).sum().clamp(min=1)
    return total / num_items_in_batch
