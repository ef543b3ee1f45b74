"""Rotary positions as one complex product, where torchtune writes out sines, cosines, slices and a stack.

On a CPU that takes a sixth of the time or less, forward and backward. Heads with a multiple of 32 features fill whole
x86 vector registers, where both forms round the same way: results are bit-identical. Other head sizes keep torchtune's
form; so do GPUs, which round the two differently, and compilers, which fuse the long form.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE
from torchtune.modules import RotaryPositionalEmbeddings

WHOLE_VECTORS = 32
"""Features per head must be a multiple of this: twice the pairs in the widest vector register."""

_PAIRS_SIDE_BY_SIDE = (RotaryPositionalEmbeddings.forward, Llama3ScaledRoPE.forward)


def turns_neighbours(rope: nn.Module) -> bool:
    """Whether a torchtune module rotates features 0 and 1, 2 and 3, as Llama's original does; the hub's rotate 0 and
    d/2."""
    return type(rope).forward in _PAIRS_SIDE_BY_SIDE


def rotate_as_complex(model: nn.Module) -> None:
    """Replace the rotation of every torchtune module that rotates neighbouring features, in place."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if turns_neighbours(module) and module.dim % WHOLE_VECTORS == 0:
            module.forward = types.MethodType(_rotate, module)


def _rotate(rope: Any, x: Tensor, *, input_pos: Tensor | None = None) -> Tensor:
    """`x`, `[B, T, heads, d]`, rotated by its positions: `0, 1, ...`, or `input_pos`, int64 `[B, T]`."""
    cache = getattr(rope, "cache", None)  # cosine and sine of every position and pair, [positions, d / 2, 2]
    if x.device.type != "cpu" or cache is None or cache.dtype != torch.float32 or torch.compiler.is_compiling():
        return type(rope).forward(rope, x, input_pos=input_pos)
    turns = torch.view_as_complex(cache[: x.size(1)][None] if input_pos is None else cache[input_pos])
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns[:, :, None]).flatten(3).type_as(x)
