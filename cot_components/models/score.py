"""Score every token with a model: one forward pass without gradients; only supervised rows reach the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cot_components.data.rows.batches import pad
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.flat import Flat, is_supervised
from cot_components.data.rows.score_pass import ONE_PROCESS, Column, Processes, Score, score_rows
from cot_components.data.rows.scores import Scores
from cot_components.errors import UserError
from cot_components.losses.measures import measure
from cot_components.transforms.discriminator import token_losses

View = Callable[[Any], AbstractContextManager[Any]]
"""From a model to a context in which its forward is a variant's, such as `lora_layers.adapters_off`."""


def as_it_is(model: Any) -> AbstractContextManager[Any]:
    """The model as trained."""
    return nullcontext()


class Asked(NamedTuple):
    """A requested column: the model (a hash), the measure (of `losses.measures.MEASURES`), and the view of the
    model."""

    model: str
    measure: str = "nll"
    view: View = as_it_is


def score_data(
    model: Any,
    data: ReasoningDataset,
    folder: Path,
    columns: Mapping[str, Asked],
    *,
    max_tokens: int = 16_384,
    processes: Processes = ONE_PROCESS,
) -> Scores:
    """Score all rows of a data set, as encoded, into a folder; continues an interrupted call.

    Args:
        model: went through `adapt`, and is sharded if there are several processes.
        columns: by name. Those of one view share a forward pass, and all of them one pass over the data.
        max_tokens: tokens per forward pass, padding included.
        processes: share the batches.

    Raises:
        UserError: see `data.rows.score_pass.score_rows` and `model_scores`.
    """
    tokenizer = data.chat.tokenizer
    return score_rows(
        data.rows,
        model_scores(model, columns, pad_id=tokenizer.pad_id),
        folder,
        columns={name: Column(asked.model, asked.measure) for name, asked in columns.items()},
        tokenizer=tokenizer.fingerprint(),
        max_tokens=max_tokens,
        processes=processes,
    )


def model_scores(model: Any, columns: Mapping[str, Asked], *, pad_id: int) -> Score:
    """A scoring function for `score_rows`: one column per name, for the supervised tokens.

    Args:
        model: went through `adapt`; scored in evaluation mode.
        columns: by name; their `model` is ignored.
        pad_id: token id of the padding.

    Raises:
        UserError: when called, a row longer than the model's context.
    """
    device = next(model.parameters()).device
    views: dict[View, dict[str, str]] = {}
    for name, asked in columns.items():
        views.setdefault(asked.view, {})[name] = asked.measure

    def score(flat: Flat) -> dict[str, np.ndarray]:
        if int(flat.lengths.max(initial=0)) > model.max_seq_len:
            raise UserError(
                f"row {flat.ids[int(flat.lengths.argmax())]} has {flat.lengths.max()} tokens, but the model's context "
                f"has {model.max_seq_len}; set dataset.max_seq_len"
            )
        batch = pad(flat, pad_id=pad_id)
        rows = torch.from_numpy(np.flatnonzero(is_supervised(batch.roles.flatten().numpy()))).to(device)
        batch = batch.to(device)
        found = {}
        was_training = model.training
        model.eval()
        with torch.no_grad():
            for view, named in views.items():
                with view(model):
                    wanted = tuple(dict.fromkeys(named.values()))
                    given = model.loss(partial(measure, wanted=wanted), batch, labels=batch.next_tokens, rows=rows)
                by_token = {}
                for name, of_rows in given.items():
                    values = torch.zeros(batch.tokens.numel(), device=device)
                    values[rows] = of_rows
                    by_token[name] = token_losses(values.view(batch.tokens.shape).cpu().numpy(), flat)
                found.update({name: by_token[what] for name, what in named.items()})
        model.train(was_training)
        return found

    return score
