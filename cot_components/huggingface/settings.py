"""Settings of other people's trainers that would change the loss, or that our loss would silently leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cot_components.errors import UserError

PACKED = "rows are encoded already and laid side by side; packed rows need a recipe of cot-components"
LABELLED = "rows are encoded already, and the data set says which tokens count"
NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "label_smoothing_factor": ((0,), "it would not reach our loss; take loss=label_smoothing(smoothing=...)"),
    "loss_type": (("nll",), "it would not reach our loss; take one of cot_components.losses, loss=dft() for 'dft'"),
    "router_aux_loss_coef": ((None, 0), "our losses have no auxiliary loss of a router; leave it out"),
    "use_liger_kernel": ((False,), "it replaces the forward that our loss reads; fused=True makes no logits either"),
    "packing": ((False,), PACKED),
    "eval_packing": ((None, False), PACKED),
    "padding_free": ((False,), PACKED),
    "completion_only_loss": ((None,), LABELLED),
    "assistant_only_loss": ((False,), LABELLED),
}
"""Settings of `TrainingArguments` and `SFTConfig`: values that change nothing, and what is said of others."""


def refuse_settings(args: Any, more: Mapping[str, Any]) -> None:
    """Called before a trainer is made, with its arguments.

    Raises:
        UserError: a setting that asks for another loss than the one that is trained with.
    """
    for name, (neutral, instead) in NEUTRAL.items():
        if (value := getattr(args, name, neutral[0])) not in neutral:
            raise UserError(f"{name}: {value!r} is not supported: {instead}")
    if more.get("compute_loss_func") is not None:
        raise UserError("compute_loss_func: it would not be called; loss=... takes one of cot_components.losses")
    shared = max(getattr(args, "world_size", 1), getattr(args, "n_gpu", 1)) > 1  # n_gpu is 0 on a CPU
    if shared and not getattr(args, "average_tokens_across_devices", True):
        raise UserError(
            "average_tokens_across_devices: False divides what each process sums by its own tokens, so the loss "
            "depends on how rows are dealt out; set it to True"
        )


def refuse_divided_rows(trainer: Any) -> None:
    """Called when a trainer knows its processes.

    Raises:
        UserError: several of them share a row, by tensor, context or sequence.
    """
    for kind in ("tp", "cp", "sp"):
        size = getattr(trainer, f"get_{kind}_size", lambda: 1)()
        if size > 1:
            raise UserError(
                f"parallelism_config: {kind}_size {size} is not supported: our loss needs whole rows, each on one "
                "process"
            )
