"""Updates of bf16 weights that lose nothing on average: computed in fp32, then rounded stochastically.

A bf16 number has 8 bits of precision. With rounding to nearest, every update below half the gap to the next number is
lost, and at fine-tuning learning rates that is nearly all of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

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
"""Numbers that are updated together, and so are in fp32 at a time, unless one tensor has more."""


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
            for part in _parts(self.param_groups):
                groups = self._update(part)
        for group, changed in zip(self.param_groups, groups, strict=True):
            group |= {key: value for key, value in changed.items() if key != "params"}
            group["updates"] += 1

    def _update(self, part: Iterable[Tensor]) -> list[dict[str, Any]]:
        """Update these weights; returns the inner optimizer's groups after the update."""
        inner, copies = self._inner, {parameter: self._in_fp32(parameter) for parameter in part}
        inner.param_groups = [
            {**group, "params": [copies[p] for p in group["params"] if p in copies]} for group in self.param_groups
        ]
        inner.state = defaultdict(dict, {copy: self._state_in_fp32(p) for p, copy in copies.items()})
        inner.step()
        for parameter, copy in copies.items():
            self._put_back(parameter, copy, inner.state[copy])
        inner.state = defaultdict(dict)  # frees what is no longer needed
        return inner.param_groups

    def _in_fp32(self, parameter: Tensor) -> Tensor:
        copy = self.state[parameter].get(MASTER, parameter.detach()).float()
        assert parameter.grad is not None
        copy.grad = parameter.grad.float()
        return copy

    def _state_in_fp32(self, parameter: Tensor) -> dict[str, Any]:
        state = {key: value for key, value in self.state[parameter].items() if key != MASTER}
        return {k: v.float() if _is_like(v, parameter) else v for k, v in state.items()}

    def _put_back(self, parameter: Tensor, copy: Tensor, state: dict[str, Any]) -> None:
        if parameter.dtype == torch.bfloat16:
            together = [key for key, v in state.items() if self._keeps == "bf16" and _is_like(v, parameter)]
            rounded = self._rounded([copy, *(state[key] for key in together)], self._names[parameter])
            parameter.copy_(rounded[0])
            state |= zip(together, rounded[1:], strict=True)
            if self._keeps == "fp32_weights":
                copy.grad = None
                state = {MASTER: copy, **state}
        self.state[parameter] = state

    def _rounded(self, values: list[Tensor], name: str) -> list[Tensor]:
        key, like = draw_key(self._seed, self.param_groups[0]["updates"], name), values[0]
        if not isinstance(like, DTensor):
            return stochastic_round_together(values, key)
        start = rows_of(like)[0] * math.prod(like.shape[1:])
        shares = [value.to_local() for value in cast(list[DTensor], values)]
        return [divided(share, like) for share in stochastic_round_together(shares, key, start=start)]


def _parts(groups: Iterable[Mapping[str, Any]]) -> Iterator[list[Tensor]]:
    """Weights with gradients, in order, about `AT_ONCE` numbers at a time."""
    part: list[Tensor] = []
    for parameter in (p for group in groups for p in group["params"] if p.grad is not None):
        if part and sum(p.numel() for p in part) + parameter.numel() > AT_ONCE:
            yield part
            part = []
        part.append(parameter)
    if part:
        yield part


def _is_like(value: Any, parameter: Tensor) -> bool:
    """Whether a state holds one uncompressed fp32 or bf16 number per weight."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.bfloat16):
        return False
    if value.shape != parameter.shape or not value.ndim:
        return False
    return not is_traceable_wrapper_subclass(value.to_local() if isinstance(value, DTensor) else value)
