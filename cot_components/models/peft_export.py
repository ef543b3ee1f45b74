"""Trained LoRA and DoRA adapters as a folder that `peft` loads on top of the base model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cot_components.errors import UserError
from cot_components.models.families import family_of
from cot_components.models.lora_layers import adapted_modules, plain_adapter_name, rank_and_alpha


def save_adapters(model: Any, folder: Path, *, weights: Mapping[str, Tensor], base: str | None = None) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` in the layout of `peft`.

    Args:
        model: with at least one adapted layer.
        folder: created if missing.
        weights: state dict of unsharded tensors by torchtune's names.
        base: folder or hub name of the base model, for `peft` to find it.

    Raises:
        UserError: DoRA on only some of the layers that the hub stores as one.
    """
    family, modules = family_of(model), adapted_modules(model)
    rank, alpha = rank_and_alpha(next(iter(modules.values())))
    weights = {plain_adapter_name(name): value for name, value in weights.items()}
    sizes = {
        plain_adapter_name(name): parameter.shape[0] for name, parameter in model.named_parameters() if parameter.ndim
    }
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    layers = family.spelling(name for name in sizes if name.endswith(".weight"))
    for hub, names in layers.items():
        parts = [name.removesuffix(".weight") for name in names]
        if any(part in modules for part in parts):
            found = _adapter(model, parts, weights, sizes)
            ranks[hub.removesuffix(".weight")] = len(found["lora_A.weight"])
            tensors |= {f"base_model.model.{hub.removesuffix('weight')}{kind}": value for kind, value in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(on_cpu, folder / "adapter_model.safetensors")
    targets = {hub.rpartition(".")[2] for hub in ranks}
    wider = {target: r for hub, r in ranks.items() if r != rank for target in targets if hub.endswith(f".{target}")}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": wider,
        "alpha_pattern": {target: alpha * r / rank for target, r in wider.items()},
        "lora_dropout": 0.0,
        "use_dora": any(name.endswith("lora_magnitude_vector") for name in tensors),
        "fan_in_fan_out": bool(family.transposed),
        "target_modules": sorted(targets),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _adapter(
    model: Any, parts: Sequence[str], weights: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """One adapter for layers that the hub stores as one: their A stacked, their B block-diagonal."""
    family, adapted = family_of(model), [part for part in parts if f"{part}.lora_a.weight" in weights]
    a = torch.cat([weights[f"{part}.lora_a.weight"] for part in adapted])
    blocks = []
    for part in parts:
        block = a.new_zeros(sizes[f"{part}.weight"], len(a))
        if part in adapted:
            own, before = weights[f"{part}.lora_b.weight"], adapted.index(part)
            block[:, before * own.shape[1] : (before + 1) * own.shape[1]] = own
        blocks.append(block)
    found = {"lora_A.weight": a, "lora_B.weight": _rows(model, parts, blocks)}
    if f"{adapted[0]}.magnitude" in weights:
        if len(adapted) < len(parts):
            raise UserError(
                f"{family.name} stores {', '.join(parts)} as one; peft cannot have DoRA on {', '.join(adapted)} alone"
            )
        magnitudes = [weights[f"{part}.magnitude"][:, None] for part in parts]
        found["lora_magnitude_vector"] = _rows(model, parts, magnitudes)[:, 0]
    return found


def _rows(model: Any, parts: Sequence[str], blocks: Sequence[Tensor]) -> Tensor:
    """The layers' row blocks arranged as the rows of the hub's single layer."""
    family = family_of(model)
    named = {f"{part}.weight": block for part, block in zip(parts, blocks, strict=True)}
    ((hub, rows),) = family.to_hub(named, model).items()
    return rows.T if family.is_transposed(hub) else rows
