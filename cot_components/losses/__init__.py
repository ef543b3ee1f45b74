"""Toward what? Token losses as targets: one family, many presets, three ways in. Plain torch."""

from cot_components.losses.checks import supervised_rows
from cot_components.losses.dense import dense_loss, induced_target
from cot_components.losses.huggingface import hf_loss
from cot_components.losses.loss import Loss, preset
from cot_components.losses.presets import (
    asft,
    beyond_log,
    chord_phi,
    dft,
    distill,
    eaft,
    gem,
    hybrid_distill,
    label_smoothing,
    otr,
    profit,
    psft,
    sft,
    sft_kl,
    target_sft,
)
from cot_components.losses.target import Target, row_losses
from cot_components.losses.types import Head, LossOutput, Pairs, Reference, TopK
from cot_components.losses.weight_rules import GroupShares, GroupSoftmax

__all__ = [
    "GroupShares",
    "GroupSoftmax",
    "Head",
    "Loss",
    "LossOutput",
    "Pairs",
    "Reference",
    "Target",
    "TopK",
    "asft",
    "beyond_log",
    "chord_phi",
    "dense_loss",
    "dft",
    "distill",
    "eaft",
    "gem",
    "hf_loss",
    "hybrid_distill",
    "induced_target",
    "label_smoothing",
    "otr",
    "preset",
    "profit",
    "psft",
    "row_losses",
    "sft",
    "sft_kl",
    "supervised_rows",
    "target_sft",
]
