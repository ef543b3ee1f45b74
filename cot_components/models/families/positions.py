"""Rotary positions with all supported scalings of config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchtune.modules import RotaryPositionalEmbeddings

from cot_components.errors import UserError

NONE = "default"
"""transformers' name for unscaled positions."""

NEEDED = {
    NONE: (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""Kind of scaling -> the keys it needs in config.json."""


class ScaledPositions(RotaryPositionalEmbeddings):
    """torchtune's rotary positions with scaled frequencies per pair of features.

    Args:
        dim: features of a head.
        max_seq_len: number of positions.
        base: of the geometric series of frequencies.
        scaling: `rope_type` and its numbers as in `NEEDED`; empty for none.
    """

    def __init__(self, dim: int, max_seq_len: int, base: float, scaling: Mapping[str, Any]) -> None:
        self.scaling = dict(scaling)
        super().__init__(dim, max_seq_len, base)  # type: ignore[arg-type]

    def rope_init(self) -> None:
        """Recompute the table of cosines and sines on the current default device."""
        speeds = 1.0 / (self.base ** (torch.arange(0, self.dim, 2).float() / self.dim))
        self.length = 1.0
        kind = self.scaling.get("rope_type", NONE)
        if kind == "linear":
            speeds = speeds / self.scaling["factor"]
        elif kind == "llama3":
            speeds = _llama3(speeds, self.scaling)
        elif kind == "yarn":
            speeds, self.length = _yarn(speeds, self.scaling, self.base)
        self.register_buffer("theta", speeds, persistent=False)
        self.build_rope_cache(self.max_seq_len)

    def build_rope_cache(self, max_seq_len: int = 4096) -> None:
        """`[max_seq_len, dim / 2, 2]`: cosine and sine, of length 1 except for yarn."""
        super().build_rope_cache(max_seq_len)
        if self.length != 1.0:
            self.cache.mul_(self.length)


def _llama3(speeds: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    """Low frequencies are divided by `factor`, high ones kept, those in between blended."""
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    turns = numbers["original_max_position_embeddings"] * speeds / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * speeds / numbers["factor"] + kept * speeds


def _yarn(speeds: Tensor, numbers: Mapping[str, Any], base: float) -> tuple[Tensor, float]:
    """NTK by parts (Peng et al. 2023, https://arxiv.org/abs/2309.00071): blended frequencies, and the magnitude of the
    rotation vectors, which acts as the attention's temperature.
    """
    factor, pairs = numbers["factor"], len(speeds)

    def pair_that_turns(times: float) -> float:
        there = numbers["original_max_position_embeddings"] / (times * 2 * math.pi)
        return pairs * math.log(there) / math.log(base)

    first = pair_that_turns(numbers.get("beta_fast") or 32)
    last = pair_that_turns(numbers.get("beta_slow") or 1)
    if numbers.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    last += 0.001 if first == last else 0
    slowed = ((torch.arange(pairs).float() - first) / (last - first)).clamp(0, 1)
    given, scale, of_all = (numbers.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    length = _temperature(factor, scale) / _temperature(factor, of_all) if scale and of_all else _temperature(factor, 1)
    return slowed * speeds / factor + (1 - slowed) * speeds, length if given is None else given


def _temperature(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def read_positions(config: Mapping[str, Any], default_base: float) -> dict[str, Any]:
    """`rope_theta`, `rope_type` and its numbers from a config.json of transformers 5 or older ones.

    Args:
        config: completed with `max_position_embeddings`.
        default_base: transformers' default for this model type.

    Raises:
        UserError: an unknown kind of scaling, or one with missing numbers.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"rope_scaling must be an object, got {given!r}")
    kind = given.get("rope_type", given.get("type", NONE))
    if kind not in NEEDED:
        raise UserError(f"rope type {kind!r} is not supported; known: {', '.join(NEEDED)}")
    share = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1):
        raise UserError(f"partial_rotary_factor {share} is not supported: all features of a head are rotated, or none")
    base = given.get("rope_theta", config.get("rope_theta"))
    kept = {name: value for name, value in given.items() if name not in ("type", "rope_theta", "partial_rotary_factor")}
    if kind in ("llama3", "yarn"):
        known = config.get("original_max_position_embeddings") or config["max_position_embeddings"]
        kept.setdefault("original_max_position_embeddings", known)
    for name in NEEDED[kind]:
        if not isinstance(kept.get(name), (int, float)):
            raise UserError(f"rope type {kind!r} needs {name}, got {kept.get(name)!r}")
    none = kind == NONE or kept["factor"] == 1
    scaling = {"rope_type": NONE} if none else {**kept, "rope_type": kind}
    return {"rope_theta": default_base if base is None else base, **scaling}


def describe_positions(rope: Any) -> dict[str, Any]:
    """The result of `read_positions` for a model with this module, ours or torchtune's."""
    scaling = dict(getattr(rope, "scaling", {}))
    if type(rope).__name__ == "Llama3ScaledRoPE" and rope.scale_factor != 1:
        scaling = {
            "rope_type": "llama3",
            "factor": float(rope.scale_factor),
            "low_freq_factor": float(rope.low_freq_factor),
            "high_freq_factor": float(rope.high_freq_factor),
            "original_max_position_embeddings": rope.old_context_len,
        }
    return {"rope_theta": rope.base, "rope_type": NONE, **scaling}
