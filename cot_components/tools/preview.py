"""What a config trains on, without a model: data, plans and interesting times, built as the recipes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cot_components.clock import Clock
from cot_components.config import build
from cot_components.curriculum import NoCurriculum, Stages
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.training.batching import plan_steps
from cot_components.training.combination import combine
from cot_components.training.distributed import World
from cot_components.training.precision import Precision
from cot_components.training.setup import Run
from cot_components.training.validation import validation_data
from cot_components.transforms.discriminator import sample_rows, shuffle_outputs

_OF_PLANS = ("packed_tokens", "gradient_accumulation_steps", "epochs", "max_steps_per_epoch", "seed")


class Preview(NamedTuple):
    """Training data with all transforms, the steps of one process, times by name, and validation data."""

    data: ReasoningDataset
    plans: Plans
    clocks: dict[str, Clock]
    held_out: ReasoningDataset | None

    def summary(self) -> str:
        """The line a run begins with."""
        return f"{self.data.summary()}; {self.plans.summary()}"


def preview(values: Mapping[str, Any], *, epochs: Sequence[int] | None = None) -> Preview:
    """The data of a checked config, as one process of its recipe sees it.

    Besides `dataset` and `dataset_val`, it applies what else changes the rows: the node `curriculum`, and the `share`
    of rows whose outputs a discriminator shuffles. For a measured pace it shows each stage at the latest possible time.

    Args:
        values: a recipe's keys with their values; see `training.recipe.read_config`.
        epochs: to show, each at its first step; default: the stages of a curriculum, else the first three epochs.

    Raises:
        UserError: no data set, methods that do not combine, an epoch that the run does not have, and any error of the
            data.
    """
    if not values.get("dataset"):
        raise UserError("the config has no dataset, so nothing is trained on")
    curriculum = combine(values).curriculum if values.get("loss") else NoCurriculum()
    text = build(values["tokenizer"], where="tokenizer")
    data, held_out = validation_data(values["dataset"], values.get("dataset_val"), build(values["dataset"], text), text)
    seed = values.get("seed") or 0
    if values.get("share") is not None:
        sample = sample_rows(data.rows, share=values["share"], at_least=values["at_least"], seed=seed)
        data = replace(data, transforms={}).with_rows(shuffle_outputs(data.rows, sample, seed=seed))
    here = Run(Path(), torch.device("cpu"), Precision(), World())
    settings = {key: values[key] for key in _OF_PLANS if values.get(key) is not None}
    plans = plan_steps(data, here, batch_size=values["batch_size"], **settings)
    stages = curriculum(plans, data.rows, data.chat.step_ends)
    said = _end_late(stages, plans)
    clocks = stages.clocks() if epochs is None else plans.epoch_clocks(epochs)
    clocks = {name if clock.step == 0 else name + said: clock for name, clock in clocks.items()}
    return Preview(stages.applied_to(data), plans, clocks, held_out)


def _end_late(stages: Stages, plans: Plans) -> str:
    """Let every stage that a measurement ends last as long as possible, as if no answer were ever right.

    Returns:
        a note for times that depend on it; "" for a curriculum without measurements.
    """
    measurements = [step for step in range(plans.total_steps) if stages.measures(step)]
    for step in measurements:
        stages.decide(step, 0.0)
    return " (at the latest: measured accuracy decides when)" if measurements else ""
