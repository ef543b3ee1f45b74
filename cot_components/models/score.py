"""What a model thinks of every token: one forward pass without gradients; only supervised rows reach the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cot_components.data.rows.batches import pad
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.flat import Flat, is_supervised
from cot_components.data.rows.scores import Score, Scores, score_rows
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.transforms.discriminator import token_losses

View = Callable[[Any], AbstractContextManager[Any]]
"""A model to a context in which its forward is another model's: `adapters_off`."""


def score_data(
    model: Any,
    data: ReasoningDataset,
    folder: Path,
    columns: Mapping[str, tuple[str, View]],
    *,
    max_tokens: int = 16_384,
) -> Scores:
    """Score all rows of a data set, as encoded, into a folder; goes on where an earlier call was stopped.

    Args:
        model: went through `adapt`.
        columns: name of a column -> the model's hash, and how `model` is looked at to be that model.
        max_tokens: tokens per forward pass, padding included.

    Raises:
        UserError: see `data.scores.score_rows` and `model_scores`.
    """
    tokenizer = data.chat.tokenizer
    score = model_scores(model, {name: view for name, (_, view) in columns.items()}, pad_id=tokenizer.pad_id)
    names = {name: made_by for name, (made_by, _) in columns.items()}
    return score_rows(data.rows, score, folder, columns=names, tokenizer=tokenizer.fingerprint(), max_tokens=max_tokens)


def as_it_is(model: Any) -> AbstractContextManager[Any]:
    """The model as trained."""
    return nullcontext()


def adapters_off(model: Any) -> AbstractContextManager[Any]:
    """The model without its LoRA adapters: the model it was before it learned."""
    from torchtune.modules.peft import disable_adapter

    return disable_adapter(model)


def has_adapters(model: Any) -> bool:
    """Whether the model is a base with LoRA adapters."""
    return any(hasattr(module, "lora_a") for module in model.modules())


def model_scores(model: Any, columns: Mapping[str, View], *, pad_id: int) -> Score:
    """A scoring function for `data.scores.score_rows`: the loss in nats of every supervised token, a column per view.

    Args:
        model: went through `adapt`; scored in evaluation mode.
        columns: name of a column -> how the model is looked at; two views share one pass over the data.
        pad_id: token id of the padding.

    Raises:
        UserError: when called, a row longer than the model's context.
    """
    plain, device = sft().fused, next(model.parameters()).device

    def score(flat: Flat) -> dict[str, np.ndarray]:
        if int(flat.lengths.max(initial=0)) > model.max_seq_len:
            raise UserError(
                f"row {flat.ids[int(flat.lengths.argmax())]} has {flat.lengths.max()} tokens, the model's context "
                f"{model.max_seq_len}; set dataset.max_seq_len"
            )
        batch = pad(flat, pad_id=pad_id)
        rows = torch.from_numpy(np.flatnonzero(is_supervised(batch.roles.flatten().numpy()))).to(device)
        batch = batch.to(device)
        found = {}
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            for name, view in columns.items():
                with view(model):
                    nll = model.loss(plain, batch, labels=batch.next_tokens, rows=rows).nll
                values = torch.zeros(batch.tokens.numel(), device=device)
                values[rows] = nll.float()
                found[name] = token_losses(values.view(batch.tokens.shape).cpu().numpy(), flat)
        model.train(was_training)
        return found

    return score
