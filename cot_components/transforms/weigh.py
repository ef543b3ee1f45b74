"""Static weights: fixed factors on the loss of some tokens, multiplied into the existing weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cot_components.clock import Clock
from cot_components.config import nearest
from cot_components.data.rows.flat import Flat
from cot_components.errors import UserError, require
from cot_components.roles import SUPERVISED_ROLES, Role
from cot_components.transforms.discriminator import BOILERPLATE, REASONING
from cot_components.transforms.threshold import Threshold


@dataclass(frozen=True)
class ByRole:
    """A constant factor per role: `{thought: 0.5, call: 2}`; other roles keep their weights.

    Args:
        factors: role label to factor, a finite number from 0; 0 takes the role out of the loss.

    Raises:
        UserError: an unknown role, one whose tokens never count, or a factor that is negative or not finite.
    """

    factors: Mapping[str, float]

    needs_epoch = False

    def __post_init__(self) -> None:
        known = [role.label for role in SUPERVISED_ROLES]
        for name, factor in self.factors.items():
            if name in (role.label for role in Role) and name not in known:
                raise UserError(f"tokens of role '{name}' are never trained on; roles that are: {', '.join(known)}")
            if name not in known:
                raise UserError(f"unknown role '{name}'{nearest(name, known)}")
            require(f"factor of {name}", factor, 0.0)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `weights`: each is multiplied by the factor of its token's role."""
        table = np.ones(len(Role), dtype=np.float32)
        for name, factor in self.factors.items():
            table[Role[name.upper()]] = factor
        return flat.with_weights(flat.weights * table[flat.roles])


@dataclass(frozen=True, kw_only=True)
class ByGroup:
    """A fixed factor per class of token: the fixed-weight variant of reasoning-highlighted fine-tuning.

    Goes after a transform that makes classes (`Highlight`, `ByPattern`).

    Args:
        boilerplate, reasoning: the factor of the class, a finite number from 0.

    Raises:
        UserError: a factor that is negative or not finite; when called, no classes.
    """

    boilerplate: float = 1.0
    reasoning: float = 1.0

    needs_epoch = False
    needs_groups = True

    def __post_init__(self) -> None:
        require("boilerplate", self.boilerplate, 0.0)
        require("reasoning", self.reasoning, 0.0)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `weights`: each is multiplied by the factor of its token's class; `groups` are unchanged."""
        if flat.groups is None:
            raise UserError("tokens have no classes to weigh; put Highlight or ByPattern before ByGroup")
        table = np.ones(2, dtype=np.float32)
        table[[BOILERPLATE, REASONING]] = self.boilerplate, self.reasoning
        return flat.with_weights(flat.weights * table[flat.groups])


@dataclass(frozen=True, kw_only=True)
class TopGap:
    """Rho-1 (arXiv 2404.07965) with scores made before training: only tokens with the most left to learn count.

    The gap is the model's loss minus a reference model's. Rho-1 uses the current model and the top share of each batch;
    here it is the model before training and the top share of the whole data set, so weights do not depend on batches.

    Args:
        scores: folder that `cot score` or the recipe `shad` has filled.
        keep: share of the scored tokens that keep their weight, above 0 and at most 1; the others weigh 0.
        model, reference: names of the two columns.

    Raises:
        UserError: a share out of range; no such scores; when called, unfinished scores, or a row that was not scored,
            or was scored with other tokens.
    """

    scores: str
    keep: float = 0.6
    model: str = "original"
    reference: str = "reference"

    needs_epoch = False
    needs_whole_rows = True

    def __post_init__(self) -> None:
        self._rule  # noqa: B018  for its checks

    def fingerprint(self) -> str:
        """What must not change when a run is resumed: the scores."""
        return self._rule.fingerprint()

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `weights`: 0 at scored tokens whose gap, in nats, is below the kept share's."""
        return self._rule(flat, clock)

    @property
    def _rule(self) -> Threshold:
        return Threshold(scores=self.scores, column=self.model, minus=self.reference, keep=self.keep)
