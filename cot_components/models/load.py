"""From a config's `model` node to an adapted model with weights; bad folders and shapes raise one-sentence errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cot_components.config import COMPONENT, build
from cot_components.errors import UserError
from cot_components.models.adapter import adapt
from cot_components.models.choose import check_folder
from cot_components.models.lora import read_lora


def start_folder(model: Mapping[str, Any] | None) -> tuple[str, Path] | None:
    """The key and the folder from which this node takes its weights, None for random weights."""
    node = model or {}
    package, _, component = str(node.get(COMPONENT)).rpartition(".")
    if package.startswith("cot_components.models") and (key := _FOLDER_KEYS.get(component)):
        return key, Path(node[key]).expanduser()
    return None


_FOLDER_KEYS = {"from_folder": "path", "with_weights": "weights"}


def check_start(model: Mapping[str, Any] | None, where: str = "model", *, packed: bool = False) -> None:
    """Check that the starting weights exist, are complete and of a known family, before anything is built.

    Args:
        model: node.
        where: its key.
        packed: whether rows will be packed.

    Raises:
        UserError: see `check_folder`; names the key. Also for impossible adapters.
    """
    node = model or {}
    if (start := start_folder(model)) is not None:
        key, folder = start
        kept = ("max_seq_len", "dropout", "backbone") if key == "path" else ()
        asked = {name: node[name] for name in kept if name in node} if key == "path" else {"backbone": "torchtune"}
        try:
            check_folder(folder, packed=packed, **asked)
        except UserError as error:
            raise UserError(f"{where}.{key}: {error}") from error
    read_lora(node.get("lora"))


def load_model(
    model: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> Any:
    """Build the model and load its starting weights, if any.

    Args:
        model: node of `from_folder`, of `with_weights`, or of a builder, which starts from random weights.
        device: where the weights go.
        dtype: of the weights.
        seed: of the random weights.

    Returns:
        The model, adapted (see `cot_components.models.adapter.adapt`).

    Raises:
        UserError: see `from_folder` and `with_weights`; a builder refuses its settings.
    """
    from torchtune.training import set_default_dtype

    torch.manual_seed(seed)
    with set_default_dtype(dtype), device:
        built = build(model, where="model")
        if not len(getattr(built, "layers", ())):
            raise UserError(f"model: {model[COMPONENT]} builds a model without layers; is num_layers at least 1?")
        if empty := [name for name, weight in built.named_parameters() if not weight.numel()]:
            raise UserError(f"model: the weight '{empty[0]}' has no numbers; one of the model's sizes is 0")
        if not hasattr(built, "hub"):
            start_from_scratch(built)
    for module in built.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()  # norms of the base weights, loaded only now
    return adapt(built)


def weights_key(model: Mapping[str, Any]) -> str:
    """Identifies the model this node loads: sha256 over the node, config.json and the bytes of the weights, whatever
    the folder's path.
    """
    start = start_folder(model)
    facts = {key: value for key, value in model.items() if key not in ("path", "weights", "quiet")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted([*start[1].glob("*.safetensors"), *start[1].glob("config.json")]) if start else ():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def start_from_scratch(model: Any) -> Any:
    """The model, with embeddings of standard deviation 0.02 (GPT-2, Llama): torch's default 1.0 makes the first loss of
    a tied model about ten times too large.
    """
    torch.nn.init.normal_(model.tok_embeddings.weight, std=0.02)
    return model
