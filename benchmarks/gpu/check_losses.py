"""Every loss through the head in chunks, as the device computes it, against whole logits and autograd in float64.

fp32 inputs: the error itself is bounded. bf16 inputs: the error beside that of whole bf16 logits, which ours may not
exceed by more than a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.loss import OBSERVED_ONLY, WHOLE_ROW, Inputs
from benchmarks.report import Row
from cot_components import losses
from cot_components.losses import Loss, dense_loss

SHAPES = {"cuda": (2048, 512, 16_384), "tiny": (256, 32, 128)}
ALLOWED_FP32 = 2e-5
"""Of a gradient's norm; sums of thousands of fp32 products."""
PRESETS = {
    "sft": losses.sft(),
    **OBSERVED_ONLY,
    **{name: loss for name, (loss, _) in WHOLE_ROW.items()},
    "hybrid_distill": losses.hybrid_distill(teacher_weight=0.3),
}


def rows(device: str, size: str) -> Iterator[Row]:
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        inputs = spread(Inputs(SHAPES[size], 0.5, device, dtype))
        for name, loss in PRESETS.items():
            exact = whole(loss, inputs, torch.float64)
            ours = error(fused(loss, inputs), exact)
            case = f"loss and gradients, {name}, {str(dtype)[6:]}"
            if dtype == torch.float32:
                yield Row(case, "float64: what is allowed", "", ours, ALLOWED_FP32, 1.0)
            else:
                yield Row(case, "whole bf16 logits", "", ours, error(whole(loss, inputs, dtype), exact), 1.1)


@torch.no_grad()
def spread(inputs: Inputs) -> Inputs:
    """The inputs with every second label likely, so that no loss is blind to all of them."""
    inputs.hidden.mul_(3)
    likely = inputs.rows[::2]
    inputs.labels[likely] = (inputs.hidden[likely] @ inputs.head.t()).argmax(-1)
    return inputs


def fused(loss: Loss, inputs: Inputs) -> list[Tensor]:
    """Losses of the supervised tokens in nats, gradients of the hidden states and of the head."""
    reference = inputs.reference if loss.needs_reference else None
    out = loss.fused(
        inputs.hidden, inputs.head, inputs.labels, rows=inputs.rows, columns=inputs.columns, reference=reference
    )
    return [out.nll, *inputs.gradients(out.objective.sum())]


def whole(loss: Loss, inputs: Inputs, dtype: torch.dtype) -> list[Tensor]:
    """The same by `dense_loss`, computed in `dtype`."""
    hidden, head = (tensor.detach().to(dtype).requires_grad_() for tensor in (inputs.hidden, inputs.head))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    labels = inputs.labels[inputs.rows]
    logits = (hidden[inputs.rows] @ head.t()).to(wide)
    other_hidden, other_head = (tensor.to(dtype) for tensor in inputs.reference)
    total = dense_loss(
        loss,
        logits,
        labels,
        columns={name: column[inputs.rows].to(wide) for name, column in inputs.columns.items()},
        reference=(other_hidden[inputs.rows] @ other_head.t()).to(wide),
    ).sum()
    nll = F.cross_entropy(logits.detach(), labels, reduction="none")
    return [nll, *torch.autograd.grad(total, (hidden, head))]


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, of the losses or of a gradient, over the norm of what is exact."""
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
