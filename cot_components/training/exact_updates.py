"""Updates of bf16 weights that lose nothing on average: computed in fp32, then rounded stochastically.

A bf16 number has 8 bits of precision. With rounding to nearest, every update below half the gap to the next number is
lost, and at fine-tuning learning rates that is nearly all of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cot_components.training.distributed import divided
from cot_components.training.resume.compressed import rows_of
from cot_components.training.rounding import draw_key, stochastic_round_together

MASTER = "fp32"
"""Name of the fp32 weight in the optimizer's state."""
AT_ONCE = 1 << 22
"""Numbers that are updated together, unless one tensor has more: as many are in fp32 at a time."""
ELEMENTWISE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Optimizers that treat each number by itself, so that a tensor can be updated in slices."""
SLICE = 1 << 20
"""Numbers of a slice, on a CPU: as many are in fp32 at a time, in memory that is used again."""


class Piece(NamedTuple):
    """What is updated at once of a weight: all of it, or a slice of its numbers in order."""

    parameter: Tensor
    group: int
    part: slice | None = None

    def of(self, value: Tensor) -> Tensor:
        """The same numbers of a tensor like the weight."""
        return value if self.part is None else value.view(-1)[self.part]

    @property
    def size(self) -> int:
        return self.parameter.numel() if self.part is None else self.part.stop - self.part.start


class Room:
    """Memory for tensors in fp32 that is used again after `clear`: pages that are new cost a CPU time."""

    def __init__(self) -> None:
        self._memory, self._taken = torch.empty(0), 0

    def clear(self) -> None:
        self._taken = 0

    def copy(self, value: Tensor) -> Tensor:
        """`value`, flat, in fp32, valid until `clear`."""
        size, begin = value.numel(), self._taken
        self._taken += -(-size // 16) * 16  # whole cache lines
        if self._taken > len(self._memory):
            begin, self._taken = 0, self._taken - begin  # earlier copies keep the memory that they have
            self._memory = torch.empty(max(8 * SLICE, self._taken))
        return self._memory[begin : begin + size].copy_(value)


class StochasticRounding(torch.optim.Optimizer):
    """Wraps an optimizer: bf16 weights are updated in fp32, a few at a time, and rounded stochastically.

    From outside it is an ordinary optimizer: groups, states and hooks belong to the weights themselves. It works with
    any optimizer that treats each tensor separately, such as those of `torch.optim` and torchao; code they compile runs
    uncompiled. Weights in fp32 are updated as usual.

    Args:
        inner: does the arithmetic; created for the same weights, before its first step.
        names: weight -> its name; a draw depends on this name, the seed, the number of updates and the index in the
            tensor.
        state: what is kept in fp32: `bf16` nothing (moments are rounded stochastically, too), `fp32_moments`, or
            `fp32_weights` (the bf16 weights are stochastically rounded copies, redrawn at every update).
        seed: of the draws.
    """

    def __init__(self, inner: torch.optim.Optimizer, names: Mapping[Tensor, str], *, state: str, seed: int) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self._inner, self._names, self._keeps, self._seed = inner, names, state, seed
        self._room = Room()
        for group in self.param_groups:
            group["updates"] = 0

    def take_over(self, before: torch.optim.Optimizer) -> None:
        """Take over the fp32 weights and the draw counter of the optimizer that this one replaces."""
        for group in self.param_groups:
            group["updates"] = before.param_groups[0]["updates"]
        self.state.update({p: {MASTER: state[MASTER]} for p, state in before.state.items() if MASTER in state})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient. `closure` is ignored."""
        groups = self.param_groups
        with torch.compiler.set_stance("force_eager"):
            for pieces in _together(self._pieces()):
                groups = self._update(pieces)
        for group, changed in zip(self.param_groups, groups, strict=True):
            group |= {key: value for key, value in changed.items() if key != "params"}
            group["updates"] += 1

    def _pieces(self) -> Iterator[Piece]:
        """Weights with gradients, in order, in slices where that is possible."""
        for number, group in enumerate(self.param_groups):
            for parameter in (p for p in group["params"] if p.grad is not None):
                if not self._can_slice(parameter):
                    yield Piece(parameter, number)
                    continue
                for at in range(0, size := parameter.numel(), SLICE):
                    yield Piece(parameter, number, slice(at, min(at + SLICE, size)))

    def _can_slice(self, parameter: Tensor) -> bool:
        """Whether weight, gradient and states lie in a CPU's memory in one order and need no change of format."""
        state = self.state[parameter]
        like = {key: value for key, value in state.items() if _is_like(value, parameter)}
        kept = torch.bfloat16 if self._keeps == "bf16" else torch.float32
        return (
            type(self._inner) in ELEMENTWISE
            and type(parameter) is torch.nn.Parameter
            and parameter.device.type == "cpu"
            and parameter.dtype == torch.bfloat16
            and len(state) > 0
            and (MASTER in state) == (self._keeps == "fp32_weights")
            and all(value.dtype == kept for value in like.values())
            and all(value.is_contiguous() for value in (parameter, parameter.grad, *like.values()) if value is not None)
        )

    def _update(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        """Update these; returns the groups as the inner optimizer leaves them."""
        self._room.clear()
        inner, copies = self._inner, [self._in_fp32(piece) for piece in pieces]
        inner.param_groups = [
            {**group, "params": [copy for piece, copy in zip(pieces, copies, strict=True) if piece.group == number]}
            for number, group in enumerate(self.param_groups)
        ]
        inner.state = defaultdict(
            dict, {copy: self._state_in_fp32(piece) for piece, copy in zip(pieces, copies, strict=True)}
        )
        inner.step()
        for piece, copy in zip(pieces, copies, strict=True):
            put_back = self._put_back if piece.part is None else self._put_slice_back
            put_back(piece, copy, inner.state[copy])
        inner.state = defaultdict(dict)  # what is no longer needed is freed
        return inner.param_groups

    def _fine(self, piece: Piece, value: Tensor) -> Tensor:
        """A piece of a tensor like the weight in fp32: itself where it is."""
        numbers = piece.of(value.detach())
        return numbers.float() if piece.part is None or value.dtype == torch.float32 else self._room.copy(numbers)

    def _in_fp32(self, piece: Piece) -> Tensor:
        parameter = piece.parameter
        assert parameter.grad is not None
        copy = self._fine(piece, self.state[parameter].get(MASTER, parameter))
        copy.grad = self._fine(piece, parameter.grad)
        return copy

    def _state_in_fp32(self, piece: Piece) -> dict[str, Any]:
        state = {key: value for key, value in self.state[piece.parameter].items() if key != MASTER}
        if piece.part is not None:  # each slice counts its own update
            state = {key: value.clone() if _is_count(value) else value for key, value in state.items()}
        return {k: self._fine(piece, v) if _is_like(v, piece.parameter) else v for k, v in state.items()}

    def _put_back(self, piece: Piece, copy: Tensor, state: dict[str, Any]) -> None:
        parameter = piece.parameter
        if parameter.dtype == torch.bfloat16:
            together = [key for key, v in state.items() if self._keeps == "bf16" and _is_like(v, parameter)]
            rounded = self._rounded([copy, *(state[key] for key in together)], self._names[parameter])
            parameter.copy_(rounded[0])
            state |= zip(together, rounded[1:], strict=True)
            if self._keeps == "fp32_weights":
                copy.grad = None
                state = {MASTER: copy, **state}
        self.state[parameter] = state

    def _put_slice_back(self, piece: Piece, copy: Tensor, state: dict[str, Any]) -> None:
        """What is not in fp32 in its place already is rounded there."""
        parameter, kept = piece.parameter, self.state[piece.parameter]
        together = [key for key, v in kept.items() if _is_like(v, parameter) and v.dtype == torch.bfloat16]
        stochastic_round_together(
            [copy, *(state[key] for key in together)],
            self._draw_key(self._names[parameter]),
            start=piece.part.start if piece.part else 0,
            out=[piece.of(value) for value in (parameter.detach(), *(kept[key] for key in together))],
        )
        if piece.part and piece.part.stop == parameter.numel():
            kept |= {key: value for key, value in state.items() if _is_count(value)}

    def _draw_key(self, name: str) -> np.ndarray:
        return draw_key(self._seed, self.param_groups[0]["updates"], name)

    def _rounded(self, values: list[Tensor], name: str) -> list[Tensor]:
        key, like = self._draw_key(name), values[0]
        if not isinstance(like, DTensor):
            return stochastic_round_together(values, key)
        start = rows_of(like)[0] * math.prod(like.shape[1:])
        shares = [value.to_local() for value in cast(list[DTensor], values)]
        return [divided(share, like) for share in stochastic_round_together(shares, key, start=start)]


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """In order, about `AT_ONCE` numbers at a time, or `SLICE` where tensors are sliced."""
    part: list[Piece] = []
    for piece in pieces:
        limit = AT_ONCE if piece.part is None else SLICE
        if part and sum(p.size for p in part) + piece.size > limit:
            yield part
            part = []
        part.append(piece)
    if part:
        yield part


def _is_count(value: Any) -> bool:
    """Whether a state is one number for a whole tensor, such as Adam's `step`."""
    return isinstance(value, Tensor) and not value.ndim


def _is_like(value: Any, parameter: Tensor) -> bool:
    """Whether a state holds one uncompressed fp32 or bf16 number per weight."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.bfloat16):
        return False
    if value.shape != parameter.shape or not value.ndim:
        return False
    return not is_traceable_wrapper_subclass(value.to_local() if isinstance(value, DTensor) else value)
