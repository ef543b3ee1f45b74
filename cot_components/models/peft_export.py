"""Trained LoRA and DoRA adapters as a folder that `peft` loads on top of the base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cot_components.models.export import adapted_modules, family_of, rank_and_alpha


def save_adapters(model: Any, folder: Path, *, weights: Mapping[str, Tensor], base: str | None = None) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` in the layout of `peft`.

    Args:
        model: with at least one adapted layer.
        folder: created where it is missing.
        weights: state dict, whole tensors by torchtune's names.
        base: folder or hub name of the base model, for `peft` to find it.
    """
    family, modules = family_of(model), adapted_modules(model)
    tensors: dict[str, Tensor] = {}
    targets = set()

    def spelled(name: str, value: Tensor) -> tuple[str, Tensor]:
        """Name and row order of the hub (rotary halves), for a matrix whose rows are those of the layer."""
        config = {**family.config(model), "hidden_size": value.shape[1]}
        ((hub_name, hub_value),) = family.to_hf({f"{name}.weight": value}, config).items()
        return f"base_model.model.{hub_name.removesuffix('.weight')}", hub_value

    for name in modules:
        hub_name, lora_b = spelled(name, weights[f"{name}.lora_b.weight"])
        targets.add(hub_name.rpartition(".")[2])
        tensors[f"{hub_name}.lora_A.weight"] = weights[f"{name}.lora_a.weight"]
        tensors[f"{hub_name}.lora_B.weight"] = lora_b
        if f"{name}.magnitude" in weights:
            tensors[f"{hub_name}.lora_magnitude_vector"] = spelled(name, weights[f"{name}.magnitude"][:, None])[1][:, 0]
    rank, alpha = rank_and_alpha(next(iter(modules.values())))
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(on_cpu, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_dora": any(name.endswith("lora_magnitude_vector") for name in tensors),
        "target_modules": sorted(targets),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
