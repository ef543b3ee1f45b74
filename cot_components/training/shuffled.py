"""SHAD's shuffled model on disk: tuned once, stored with what it was made from, and reused by a resumed run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from cot_components.errors import UserError
from cot_components.files import sync
from cot_components.models.lora_layers import is_adapter, plain_adapter_name
from cot_components.runs.layout import LOG
from cot_components.training.setup import Run

WEIGHTS = "shuffled.safetensors"


def weights_hash(model: Any, *, adapters: bool = True) -> str:
    """sha256 over names and values of a model's weights; without `adapters`, those of the base model."""
    digest = hashlib.sha256()
    named = {plain_adapter_name(name): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in sorted(named.items()):
        if adapters or not is_adapter(name):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tuned_model(model: Any, folder: Path, made_of: Mapping[str, Any], tune: Callable[[], None]) -> None:
    """Bring the shuffled model's weights into `model`: from `folder` if it was tuned before, else by `tune()`.

    Args:
        model: the model before tuning; only its trainable weights are stored (LoRA's adapters, or all).
        folder: folder of `shuffled.safetensors`, existing or new.
        made_of: base weights, shuffled rows and settings of the tuning.
        tune: trains `model` in place.

    Raises:
        UserError: the folder has a model made from something else, or a damaged file; says what differs.
    """
    path = folder / WEIGHTS
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                kept = json.loads(file.metadata()["made_of"])
            weights = load_file(path)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged ({error}); remove it to tune again") from error
        if differing := [name for name in made_of if kept.get(name) != made_of[name]]:
            raise UserError(
                f"{path} was tuned with another {differing[0]} ({kept.get(differing[0])}, "
                f"now {made_of[differing[0]]}); choose another output_dir"
            )
        model.load_state_dict(weights, strict=False)
        return
    tune()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name in trainable}
    unfinished = path.with_suffix(".tmp")
    save_file(weights, unfinished, metadata={"made_of": json.dumps(made_of)})
    sync(unfinished)
    os.replace(unfinished, path)
    sync(folder)


def tuning_folder(run: Run) -> Run:
    """The run with a separate folder for the tuning's log; an interrupted tuning starts over, and so does its log."""
    folder = run.output_dir / "tuning"
    folder.mkdir(exist_ok=True)
    (folder / LOG).unlink(missing_ok=True)
    return run._replace(output_dir=folder)
