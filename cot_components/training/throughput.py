"""Speed of a run: tokens per second, model FLOPs utilisation, memory, time spent waiting for data.

Useful work is what the step requires mathematically, forward and backward, over tokens (padding is not work), with
width `d`, `L` layers and vocabulary `V`:

- 6 FLOPs per token and weight of the layers; 4 where the weight is frozen, because its own gradient is not computed;
  the last layer's feed-forward is computed for supervised tokens only, so it is counted for them only;
- 6 * d * L FLOPs per pair of tokens in a row that causal attention keeps, twice: `12 * context * d * L` per token, with
  `context` the mean number of tokens a token attends to;
- 6 * d * V FLOPs per *supervised* token (4 with a frozen head): skipped rows of the head are not counted, and neither
  are second passes of activation checkpointing, adaptive weights or a reference.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Steps excluded from the means, because memory is allocated and kernels are compiled in them."""

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""The vendors' dense bf16 FLOP/s, by part of the device's name."""

UNITS = ("avx512_bf16", "amx_bf16")
"""Instructions with which a CPU multiplies bf16 numbers."""

GIB = 2.0**30


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one training step of a model, forward and backward; see the module's docstring.

    per_token: of the layers' weights
    per_seen_token: of attention, per token and attended token
    per_supervised_token: of the last layer's feed-forward and the head
    """

    per_token: float
    per_seen_token: float
    per_supervised_token: float

    @classmethod
    def of(cls, model: Any) -> ModelFlops:
        """Count the weights of a decoder, experts separately. Only torchtune's decoder skips rows without a label in
        its last feed-forward.
        """
        layers = _of_weights(weight for layer in model.layers for weight in layer.parameters())
        last_feed_forward, width = 0.0, getattr(model, "attention_width", None)
        if width is None:
            attention = model.layers[0].attn
            width = attention.num_heads * attention.head_dim * len(model.layers)
            last_feed_forward = _of_weights(model.layers[-1].mlp.parameters())
        head = getattr(model.output, "tied_module", None) or model.output
        return cls(
            per_token=layers - last_feed_forward,
            per_seen_token=12.0 * width,
            per_supervised_token=last_feed_forward + _of_weights(head.parameters()),
        )

    def total(self, *, tokens: float, seen: float, supervised: float) -> float:
        """FLOPs for this many tokens, attended tokens (summed over tokens), and supervised tokens."""
        return tokens * self.per_token + seen * self.per_seen_token + supervised * self.per_supervised_token


def _of_weights(weights: Iterable[Tensor]) -> float:
    return float(sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights if weight.dim() == 2))


@dataclass
class SpeedMeter:
    """Sums over the steps of a run, all processes together, without the first `WARM_UP`."""

    steps: int = 0
    sums: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("seconds", "waited", "tokens", "seen", "supervised"), 0.0)
    )

    def add(self, measured: Mapping[str, float]) -> None:
        """Add what `train_step` measured; skipped steps are ignored."""
        if "step_seconds" not in measured:
            return
        self.steps += 1
        if self.steps <= WARM_UP:
            return
        seconds = measured["step_seconds"]
        tokens = measured["tokens_per_second"] * seconds
        found = {
            "seconds": seconds,
            "waited": measured["loader_wait_fraction"] * seconds,
            "tokens": tokens,
            "seen": tokens * measured["context_tokens"],
            "supervised": measured["supervised_tokens"],
        }
        for name, value in found.items():
            self.sums[name] += value

    def result(self, model: Any, device: torch.device, *, world_size: int = 1) -> dict[str, float]:
        """Values to log: `run_tokens_per_second`, `run_supervised_tokens_per_second`, `run_loader_wait_fraction`,
        `run_tflops` per device, `run_mfu` if the device's peak is known, `run_peak_memory_gib`. Empty for a run no
        longer than the warm-up.
        """
        if not self.sums["seconds"]:
            return {}
        seconds = self.sums["seconds"]
        work = ModelFlops.of(model).total(**{name: self.sums[name] for name in ("tokens", "seen", "supervised")})
        flops = work / seconds / world_size
        peak = peak_flops(device)
        return {
            "run_tokens_per_second": self.sums["tokens"] / seconds,
            "run_supervised_tokens_per_second": self.sums["supervised"] / seconds,
            "run_loader_wait_fraction": self.sums["waited"] / seconds,
            "run_tflops": flops / 1e12,
            **({} if peak is None else {"run_mfu": flops / peak}),
            "run_peak_memory_gib": peak_memory(device) / GIB,
        }


def sentence(result: Mapping[str, float]) -> str:
    """The last line of a run."""
    mfu = f"{result['run_mfu']:.1%} MFU, " if "run_mfu" in result else ""
    return (
        f"speed: {result['run_tokens_per_second']:,.0f} tokens/s, "
        f"{result['run_supervised_tokens_per_second']:,.0f} of them supervised; "
        f"{mfu}{result['run_tflops']:.3g} TFLOP/s per device without skipped rows; "
        f"peak memory {result['run_peak_memory_gib']:.2f} GiB; "
        f"{result['run_loader_wait_fraction']:.1%} of the time waiting for data"
    )


def multiplies_in_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16 numbers."""
    return any(torch.cpu.get_capabilities().get(unit, False) for unit in UNITS)


def cpu_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def chip_name(device: torch.device) -> str:
    """Name of the GPU, or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of the device, None if it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def peak_memory(device: torch.device) -> int:
    """Most bytes ever held: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
