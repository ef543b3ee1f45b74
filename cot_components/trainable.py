"""Which weights of a model learn, set by a config's node `trainable`; the others stay bit-identical.

    trainable:
      _component_: cot_components.trainable.Half

A choice is a pure function of the weights' names, kinds and layers, and of the round, which follows from the clock:
every process and every resumed run makes the same choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from cot_components.clock import Clock, draw_bits, row_keys
from cot_components.config.components import nearest
from cot_components.errors import UserError, require
from cot_components.models.families import family_of

ALL = "all"
"""Every kind of weight."""
Moments = Literal["fresh", "kept"]


class Weight(NamedTuple):
    """What a choice knows about one weight.

    module: the module it belongs to, by our name; a bias goes with its matrix
    kind:   the module's name on the hub: `q_proj`, `down_proj`, `embed_tokens`
    layer:  its layer; None for embedding, last norm and head
    block:  its part of the layer, `layers.0.attn`; "" outside of layers
    size:   number of elements
    """

    module: str
    kind: str
    layer: int | None
    block: str
    size: int


class Trainable(Protocol):
    """Which weights learn, and when that changes."""

    @property
    def moments(self) -> Moments:
        """In a new round the optimizer's moments are `fresh`, or `kept`, including those of resting weights."""

    def round_of(self, clock: Clock) -> int:
        """The round that the step of this clock belongs to."""

    def choose(self, weights: Mapping[str, Weight], number: int) -> set[str]:
        """Names of the weights that learn in this round. Raises UserError if there are none."""


def weights_of(model: Any) -> dict[str, Weight]:
    """Every weight of a decoder by name, in order; call it before the model is wrapped or sharded.

    Raises:
        UserError: an architecture that is not known, or without layers.
    """
    family, found = family_of(model), {}
    for name, parameter in model.named_parameters():
        kind = family.hub_name(name).split(".")[-2]
        found[name] = Weight(name.rpartition(".")[0], kind, *_place(name), parameter.numel())
    if all(weight.layer is None for weight in found.values()):
        raise UserError(f"trainable: a {type(model).__name__} has no layers to choose weights from")
    return found


def _place(name: str) -> tuple[int | None, str]:
    """Layer and block of a weight: the first number in its name, and its name up to the part after that number."""
    parts = name.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return (None, "") if at is None else (int(parts[at]), ".".join(parts[: at + 2]))


def share_of(names: Iterable[str], weights: Mapping[str, Weight]) -> float:
    """The share (0 to 1) of all parameters that these weights hold."""
    return sum(weights[name].size for name in names) / sum(weight.size for weight in weights.values())


@dataclass(frozen=True, kw_only=True)
class Only:
    """Weights of some kinds, in some layers, from the first step to the last.

    Args:
        layers: the first and the last layer that learn, counted from 0; null is every layer, and embedding, last norm
            and head.
        kinds: modules by the hub's names (`q_proj`, `down_proj`, `input_layernorm`, `c_attn`, `embed_tokens`), or
            `all`.

    Raises:
        UserError: layers that are not two ascending numbers; no kind.
    """

    layers: Sequence[int] | None = None
    kinds: str | Sequence[str] = ALL

    moments = "kept"

    def __post_init__(self) -> None:
        if self.layers is not None and not (len(self.layers) == 2 and 0 <= self.layers[0] <= self.layers[1]):
            raise UserError(
                f"trainable.layers must be the first and the last layer, such as [8, 15]; got {self.layers}"
            )
        if not self.kinds:
            raise UserError("trainable.kinds names no weight")

    def round_of(self, clock: Clock) -> int:
        return 0

    def choose(self, weights: Mapping[str, Weight], number: int) -> set[str]:
        """See `Trainable`. Raises UserError for a kind or a layer that the model lacks; names the nearest kind."""
        wanted = {self.kinds} if isinstance(self.kinds, str) else {*self.kinds}
        last_layer = max(weight.layer for weight in weights.values() if weight.layer is not None)
        if self.layers is not None and self.layers[1] > last_layer:
            raise UserError(f"trainable.layers: {list(self.layers)} is not within the model's layers 0 to {last_layer}")
        inside = {n: w for n, w in weights.items() if self.layers is None or _between(w.layer, *self.layers)}
        known = {weight.kind for weight in inside.values()}
        if missing := sorted(wanted - known - {ALL}):
            raise UserError(f"trainable.kinds: no weight '{missing[0]}'{nearest(missing[0], known)}")
        return {name for name, weight in inside.items() if ALL in wanted or weight.kind in wanted}


def _between(layer: int | None, first: int, last: int) -> bool:
    return layer is not None and first <= layer <= last


@dataclass(frozen=True, kw_only=True)
class CoFiTune:
    """The coarse half of CoFiTune (arXiv 2404.10306): up and down projections in the second quarter of the layers, 8 to
    15 of 32, 10 to 19 of 40, 15 to 29 of 60.

    Its fine half, gradients scaled by the importance of units, needs two passes with different dropout, which the
    models here do not have.

    Args:
        kinds: as in `Only`; GPT-2's are `c_fc` and `c_proj`.
    """

    kinds: Sequence[str] = ("up_proj", "down_proj")

    moments = "kept"

    def round_of(self, clock: Clock) -> int:
        return 0

    def choose(self, weights: Mapping[str, Weight], number: int) -> set[str]:
        """See `Only.choose`."""
        num_layers = len({weight.layer for weight in weights.values()} - {None})
        first = num_layers // 4
        return Only(layers=[first, max(num_layers // 2 - 1, first)], kinds=self.kinds).choose(weights, number)


@dataclass(frozen=True, kw_only=True)
class Half:
    """Half fine-tuning (HFT, arXiv 2404.18466): a random half of each category of weights learns in each round.

    In every layer two of the four attention matrices learn; of the three feed-forward matrices, two in a random half of
    the layers and one in the others; half of all norms; embedding and head always. In general: half of the matrices,
    rounded up in a random half of the layers. In small tied models the embedding brings the share that learns closer to
    60 than to 50 %; the run reports it.

    In the paper a round is a stage of training (a task, or SFT before DPO): a separate run with a new optimizer. So by
    default a run is one round; if it has several, each begins with fresh moments while the learning-rate schedule
    continues.

    Args:
        redraw: `once` for one round, `epoch` for one round per epoch, or the number of steps in a round.
        embeddings: whether embedding and head learn; the paper's do.
        moments: `fresh` in each round, or `kept`: those of resting weights stay unchanged.
        seed: of the draws.

    Raises:
        UserError: a round of fewer than one step.
    """

    redraw: Literal["once", "epoch"] | int = "once"
    embeddings: bool = True
    moments: Moments = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.redraw, int):
            require("trainable.redraw", self.redraw, 1)

    def round_of(self, clock: Clock) -> int:
        if isinstance(self.redraw, int):
            return clock.step // self.redraw
        return clock.epoch if self.redraw == "epoch" else 0

    def choose(self, weights: Mapping[str, Weight], number: int) -> set[str]:
        """See `Trainable`."""
        modules = {weight.module: weight for weight in weights.values()}
        norms = [module for module, weight in modules.items() if _is_norm(weight)]
        matrices: dict[str, list[str]] = {}  # block -> its modules
        for module, weight in modules.items():
            if weight.layer is not None and not _is_norm(weight):
                matrices.setdefault(weight.block, []).append(module)
        chosen = set(self._half_of(norms, number))
        for part in sorted({block.rpartition(".")[2] for block in matrices}):  # attention, feed-forward
            blocks = [block for block in matrices if block.rpartition(".")[2] == part]
            fuller = self._half_of(blocks, number)
            for block in blocks:
                chosen |= set(self._half_of(matrices[block], number, round_up=block in fuller))
        if self.embeddings:
            chosen |= {module for module, weight in modules.items() if weight.layer is None and not _is_norm(weight)}
        return {name for name, weight in weights.items() if weight.module in chosen}

    def _half_of(self, names: Sequence[str], number: int, *, round_up: bool = False) -> list[str]:
        """A random half of the names."""
        drawn = sorted(names, key=lambda name: self._draw(number, name))
        return drawn[: (len(drawn) + round_up) // 2]

    def _draw(self, number: int, name: str) -> int:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        keys = row_keys(self.seed, number, np.frombuffer(digest, dtype=np.int64))
        return int(draw_bits(keys, np.zeros(1, dtype=np.int64))[0])


def _is_norm(weight: Weight) -> bool:
    return "norm" in f"{weight.module.rpartition('.')[2]} {weight.kind}"
