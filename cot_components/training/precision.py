"""Number formats of a run: products, weights between steps, exported weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cot_components.errors import UserError
from cot_components.models.lora_layers import adapted_modules
from cot_components.training.distributed import World, plain_name
from cot_components.training.exact_updates import StochasticRounding
from cot_components.training.rounding import draw_key, stochastic_round
from cot_components.training.throughput import UNITS, multiplies_in_bf16

FP32, BF16, NEAREST = "fp32", "bf16", "bf16_nearest"
DTYPES = {FP32: torch.float32, BF16: torch.bfloat16, NEAREST: torch.bfloat16}
"""Values of a recipe's key `dtype`, and the type of weights and products."""
STATES = ("bf16", "fp32_moments", "fp32_weights")
"""Values of a recipe's key `optimizer_state`: with `dtype: bf16` and Adam, 8, 12 and 16 bytes per weight."""


class Precision(NamedTuple):
    """The number formats of a run.

    dtype:           of weights and products in training, one of `DTYPES`
    optimizer_state: one of `STATES`, see `StochasticRounding`
    export:          of the exported weights: `fp32` or `bf16`
    seed:            of the draws
    """

    dtype: str = FP32
    optimizer_state: str = "bf16"
    export: str = FP32
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and products."""
        return DTYPES[self.dtype]

    def exported(self, name: str, value: Tensor, *, step: int) -> Tensor:
        """A tensor as exported after `step` optimizer steps: rounded stochastically if it is to be bf16."""
        if not value.is_floating_point():
            return value
        if self.export == FP32 or value.dtype == torch.bfloat16:
            return value.to(DTYPES[self.export])
        return stochastic_round(value.float(), draw_key(self.seed, step, f"{name}/export"))


def choose_precision(config: Mapping[str, Any], device: torch.device, say: Callable[[str], None]) -> Precision:
    """The formats that a recipe's keys ask for, adjusted to this device.

    Args:
        config: `dtype`, `seed`, and, if they are keys of the recipe, `optimizer_state` and `export_dtype`.
        device: a CPU without bf16 instructions gets fp32, which is reported.

    Raises:
        UserError: a value outside the allowed ones.
    """
    dtype, state = config["dtype"], config.get("optimizer_state", "bf16")
    exported = config.get("export_dtype") or (FP32 if dtype == FP32 else BF16)
    for key, value, known in (
        ("dtype", dtype, DTYPES),
        ("optimizer_state", state, STATES),
        ("export_dtype", exported, (FP32, BF16)),
    ):
        if value not in known:
            raise UserError(f"{key} must be one of {', '.join(known)}, got {value!r}")
    if dtype != FP32 and device.type == "cpu" and not multiplies_in_bf16():
        say(f"dtype: this CPU has no units for bf16 ({', '.join(UNITS)}): weights and products are fp32")
        dtype = FP32
    return Precision(dtype, state, exported, config["seed"])


def with_exact_updates(optimizer: torch.optim.Optimizer, model: nn.Module, precision: Precision) -> Any:
    """The optimizer for `dtype`: wrapped in `StochasticRounding` for `bf16`, else unchanged.

    Adapters, which are small, always keep fp32 weights.
    """
    if precision.dtype != BF16:
        return optimizer
    names: dict[Tensor, str] = {parameter: plain_name(name) for name, parameter in model.named_parameters()}
    state = "fp32_weights" if adapted_modules(model) else precision.optimizer_state
    return StochasticRounding(optimizer, names, state=state, seed=precision.seed)


def warn_of_rounding(optimizer: torch.optim.Optimizer, precision: Precision, world: World) -> None:
    """With `dtype: bf16_nearest`, report what share of the weights the first learning rate can change."""
    if precision.dtype != NEAREST:
        return
    share = movable_share(optimizer, world)
    if world.is_first:
        print(
            f"dtype: bf16_nearest loses updates: the first learning rate can change {100 * share:.1f} % of the trained "
            "weights, the others are too far from the next bf16 number; dtype: bf16 keeps all",
            flush=True,
        )


@torch.no_grad()
def movable_share(optimizer: torch.optim.Optimizer, world: World) -> float:
    """Share (0 to 1) of the trained weights that an Adam-sized update (one learning rate) can change: those for which
    half the gap to the next number is at most the rate. Under a schedule, the rate is `initial_lr`.
    """
    moved = total = 0.0
    for group in optimizer.param_groups:
        rate = float(group.get("initial_lr", group["lr"]))
        for weight in (p for p in group["params"] if p.requires_grad):
            local = weight.to_local() if hasattr(weight, "to_local") else weight
            size = local.abs()
            gap = torch.nextafter(size, torch.full_like(size, torch.inf)).float() - size.float()
            moved += float((gap / 2 <= rate).sum())
            total += local.numel()
    moved, total = world.sum([moved, total])
    return moved / max(total, 1.0)
