"""Which weights of a run learn in a step: set before the model is sharded, and again when a round begins.

A resting weight has no gradient, which saves its cost, and no optimizer touches it: neither decay nor moments nor
stochastic rounding change a bit of it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from cot_components.clock import Clock
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.models.export import adapted_modules
from cot_components.trainable import Trainable, share_of, weights_of
from cot_components.training.distributed import plain_name

WITH_ADAPTERS = (
    "trainable chooses among the model's own weights, but with model.lora all of these are frozen; remove one "
    "of the two"
)


class TrainedWeights:
    """The learning weights of one run, set by its node `trainable`: a pure function of the clock.

    Args:
        trainable: the config's component.
        model: as loaded, neither wrapped nor sharded; resting weights get `requires_grad=False` at once.
        plans: all steps of the run, and where it starts.

    Raises:
        UserError: a model with adapters; a choice of weights that this model does not have.
    """

    def __init__(self, trainable: Trainable, model: Any, plans: Plans) -> None:
        if adapted_modules(model):
            raise UserError(WITH_ADAPTERS)
        self._trainable, self._plans = trainable, plans
        self._weights = weights_of(model)
        self._set(model, plans.clock(min(plans.start_step, plans.total_steps - 1)))

    def _set(self, model: nn.Module, clock: Clock) -> None:
        self._round = self._trainable.round_of(clock)
        self._names = self._trainable.choose(self._weights, self._round)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(plain_name(name) in self._names)

    def _begins_round(self, clock: Clock) -> bool:
        """Whether this clock's step is in another round than the previous step."""
        round_of = self._trainable.round_of
        return clock.step > 0 and round_of(clock) != round_of(self._plans.clock(clock.step - 1))

    def forgets(self, clock: Clock) -> bool:
        """Whether the optimizer is rebuilt before this clock's step."""
        return self._trainable.moments == "fresh" and self._begins_round(clock)

    def before_step(self, model: nn.Module, clock: Clock) -> None:
        """If a round begins with this step, make its weights learn and the others rest."""
        if self._begins_round(clock):
            self._set(model, clock)

    def progress(self) -> dict[str, float]:
        """Entries of a step's record: the share (0 to 1) of all parameters that learn, and the round."""
        return {"trained_share": share_of(self._names, self._weights), "trained_round": float(self._round)}

    def summary(self) -> str:
        """The line printed at the start of a run."""
        total = sum(weight.size for weight in self._weights.values())
        share = share_of(self._names, self._weights)
        return f"trainable: {round(share * total):,} of {total:,} weights learn ({share:.1%})"


class AsLoaded:
    """Without `trainable` in the config: the weights that learn in the model as loaded."""

    def forgets(self, clock: Clock) -> bool:
        return False

    def before_step(self, model: nn.Module, clock: Clock) -> None:
        pass

    def progress(self) -> dict[str, float]:
        return {}

    def summary(self) -> str:
        return ""


def trained_weights(trainable: Trainable | None, model: Any, plans: Plans) -> TrainedWeights | AsLoaded:
    """The object a recipe asks at every step; None changes nothing. See `TrainedWeights`."""
    return AsLoaded() if trainable is None else TrainedWeights(trainable, model, plans)
