"""What every loss asks for at one token: the model's distribution beside the target that each preset pulls it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from cot_components import losses
from cot_components.losses import Loss
from cot_components.losses.dense import induced_target
from cot_components.roles import Role
from cot_components.viz.curves import STYLE
from cot_components.viz.theme import INK, LINE, ROLE_COLOURS

MODEL, TARGET, OBSERVED = LINE.light, ROLE_COLOURS[Role.THOUGHT].light, ROLE_COLOURS[Role.ANSWER].light


def every_preset() -> dict[str, Loss]:
    """One loss of each kind, with settings that show what it does on a handful of tokens."""
    return {
        "sft": losses.sft(),
        "label_smoothing 0.1": losses.label_smoothing(smoothing=0.1),
        "dft": losses.dft(),
        "beyond_log 0.5": losses.beyond_log(exponent=0.5),
        "profit 0.3": losses.profit(threshold=0.3),
        "eaft k=4": losses.eaft(k=4),
        "chord_phi": losses.chord_phi(),
        "otr": losses.otr(),
        "gem 0.7": losses.gem(beta=0.7),
        "psft": losses.psft(),
        "sft_kl 0.5": losses.sft_kl(kl_weight=0.5),
        "asft 0.5": losses.asft(kl_weight=0.5),
        "distill": losses.distill(),
        "hybrid_distill 0.3": losses.hybrid_distill(teacher_weight=0.3),
        "target_sft 0.5": losses.target_sft(eta=0.5),
    }


def plot_targets(
    logits: Sequence[float],
    label: int,
    reference: Sequence[float],
    *,
    tokens: Sequence[str] | None = None,
    old_probability: float = 0.2,
    presets: Mapping[str, Loss] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Small multiples, one per preset: the model's distribution in grey, the target of the loss in blue.

    Dots are the reference, drawn if the loss uses it; the name of the observed token is orange.

    Args:
        logits: of the student on one token, `[V]` with a small V; reference: of the reference or teacher, `[V]`.
        label: index of the observed token; tokens: names of the V tokens.
        old_probability: of the observed token under the old policy, for the presets that read `old_logp`.
        presets: name to loss; None is `every_preset()`.
        path: where to save a PNG.

    Returns:
        A figure outside pyplot's global state; a notebook displays it as the last expression of a cell.
    """
    presets = presets or every_preset()
    names = list(tokens or map(str, range(len(logits))))
    per_line = min(5, len(presets))
    lines = -(-len(presets) // per_line)
    style: Any = STYLE
    with rc_context(style):
        figure = Figure(figsize=(2.5 * per_line, 0.5 + 2.1 * lines), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, per_line, sharey=True, squeeze=False).flatten()
        for axis, (name, loss) in zip(axes, presets.items(), strict=False):
            model, target, other = _target_of(loss, logits, label, reference, old_probability)
            axis.set_title(name, fontsize=10, color=INK.light)
            _draw(axis, model, target, other)
            axis.set_xticks(range(len(names)), labels=names, fontsize=9)
            axis.get_xticklabels()[label].set(color=OBSERVED, fontweight="bold")
        for axis in axes[len(presets) :]:
            axis.set_visible(False)
        title = "The model's distribution (grey), the target of each loss (blue), the reference that it uses (dots)"
        figure.suptitle(title, fontsize=11, color=INK.light)
        if path is not None:
            figure.savefig(path, dpi=150)
    return figure


def _target_of(
    loss: Loss, logits: Sequence[float], label: int, reference: Sequence[float], old_probability: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`[V]` each: the model's distribution, the induced target, the reference's distribution if the loss reads it."""
    student, other = (torch.tensor([z], dtype=torch.float64) for z in (logits, reference))
    more: dict[str, Any] = {"reference": other} if loss.needs_reference else {}
    if "old_logp" in loss.needs:
        more["columns"] = {"old_logp": torch.tensor([old_probability]).log()}
    target = induced_target(loss.from_logits, student, torch.tensor([label]), **more)[0]
    return student.softmax(-1)[0], target, other.softmax(-1)[0] if loss.needs_reference else None


def _draw(axis: Any, model: Tensor, target: Tensor, reference: Tensor | None) -> None:
    places = np.arange(len(model))
    axis.bar(places - 0.2, model.numpy(), width=0.4, color=MODEL)
    axis.bar(places + 0.2, target.numpy(), width=0.4, color=TARGET)
    if reference is not None:
        axis.plot(places, reference.numpy(), "o", markersize=4, color=INK.light)
    axis.axhline(0.0, color=INK.light, linewidth=0.6)
