"""From a config's `model` node to an adapted model with weights; bad folders and shapes end in one sentence."""

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
from cot_components.models.folder import check_folder
from cot_components.models.hub import fill
from cot_components.models.lora import read_lora


def start_folder(
    model: Mapping[str, Any] | None, checkpointer: Mapping[str, Any] | None = None
) -> tuple[str, Path] | None:
    """The key and the folder that these nodes take their weights from, None for random ones."""
    node = model or {}
    package, _, component = str(node.get(COMPONENT)).rpartition(".")
    if package.startswith("cot_components.models") and (key := _FOLDER_KEYS.get(component)):
        return f"model.{key}", Path(node[key]).expanduser()
    return ("checkpointer.checkpoint_dir", Path(checkpointer["checkpoint_dir"]).expanduser()) if checkpointer else None


_FOLDER_KEYS = {"from_folder": "path", "with_weights": "weights"}


def check_start(model: Mapping[str, Any] | None, checkpointer: Mapping[str, Any] | None = None) -> None:
    """Make sure that the starting weights are there, whole and of a known family, before anything is built.

    Raises:
        UserError: see `check_folder`; names the key. Adapters that cannot be.
    """
    node = model or {}
    if (start := start_folder(model, checkpointer)) is not None:
        key, folder = start
        asked = {name: node.get(name) for name in ("max_seq_len", "dropout")} if key == "model.path" else {}
        try:
            check_folder(folder, **asked)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    read_lora(node.get("lora"))


def check_checkpointer(checkpointer: Mapping[str, Any] | None) -> None:
    """`check_start` of a `checkpointer` node."""
    check_start(None, checkpointer)


def load_model(
    model: Mapping[str, Any],
    checkpointer: Mapping[str, Any] | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> Any:
    """Build the model and load its starting weights, if any.

    Args:
        model: node of `from_folder`, of `with_weights`, or of a builder.
        checkpointer: names the folder of a builder's weights by `checkpoint_dir`; None starts a builder from random
            ones.
        device: where the weights go.
        dtype: of the weights.
        seed: of the random weights.

    Returns:
        The model, adapted (see `cot_components.models.adapter.adapt`).

    Raises:
        UserError: see `from_folder` and `with_weights`; settings that a builder refuses.
    """
    from torchtune.training import set_default_dtype

    torch.manual_seed(seed)
    with set_default_dtype(dtype), device:
        built = build(model, where="model")
        if checkpointer is not None:
            fill(built, checkpointer["checkpoint_dir"])
        elif not hasattr(built, "hub"):
            start_from_scratch(built)
    for module in built.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()  # the norms of the base weights, which are there only now
    return adapt(built)


def weights_key(model: Mapping[str, Any], checkpointer: Mapping[str, Any] | None = None) -> str:
    """Which model these nodes load: sha256 over the model's node, its config.json and the bytes of its weights; folders
    may move.
    """
    start = start_folder(model, checkpointer)
    facts = {key: value for key, value in model.items() if key not in ("path", "weights", "quiet")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted([*start[1].glob("*.safetensors"), *start[1].glob("config.json")]) if start else ():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def exported_checkpointer(folder: Path) -> dict[str, Any]:
    """The `checkpointer` node that reads a folder written by `save_pretrained`."""
    return {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(folder),
        "checkpoint_files": ["model.safetensors"],
        "model_type": "LLAMA3_2",  # torchtune wants one; the folder's config.json decides
        "output_dir": str(folder.parent),  # and one outside; nothing is written
    }


def start_from_scratch(model: Any) -> Any:
    """The model, with embeddings of standard deviation 0.02 (GPT-2, Llama): torch's own 1.0 makes the first loss of a
    tied model about ten times too large.
    """
    torch.nn.init.normal_(model.tok_embeddings.weight, std=0.02)
    return model
