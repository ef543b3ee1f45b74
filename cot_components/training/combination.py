"""The combination of methods in a config, checked before anything is read, loaded or written.

Both the recipe and `cot validate` call `combine` first, so they refuse with the same sentence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cot_components.config import COMPONENT, build
from cot_components.curriculum import NoCurriculum
from cot_components.datasets import build_selectors, build_transforms
from cot_components.errors import UserError
from cot_components.training.refusals import REFUSALS, Combination


def combine(values: Mapping[str, Any]) -> Combination:
    """The parts of a recipe's checked config, if they can be combined.

    Raises:
        UserError: a setting that a part refuses; the first of `REFUSALS` that applies.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    curriculum = build(values.get("curriculum"), where="curriculum")
    combination = Combination(
        loss=build(values["loss"], where="loss"),
        selectors=build_selectors(values["dataset"].get("select")),
        transforms=build_transforms(values["dataset"].get("transforms")),
        curriculum=NoCurriculum() if curriculum is None else curriculum,
        trainable=build(values.get("trainable"), where="trainable"),
        reference=build(values.get("reference"), where="reference"),
        packed=values.get("packed_tokens") is not None,
        parts=values.get("gradient_accumulation_steps", 1) * processes,
        adapters=_has_adapters(values["model"]),
        evaluation=values.get("evaluation") is not None,
        held_out=values.get("dataset_val") is not None,
    )
    for refusal in REFUSALS:
        if sentence := refusal(combination):
            raise UserError(sentence)
    return combination


def _has_adapters(model: Mapping[str, Any]) -> bool | None:
    if isinstance(inner := model.get("model"), Mapping):  # a builder inside `with_weights`
        return _has_adapters(inner)
    if any(str(key).startswith("lora") and value is not None for key, value in model.items()):
        return True
    return False if str(model[COMPONENT]).startswith(("torchtune.", "cot_components.")) else None
