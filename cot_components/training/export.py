"""The run's model as folders that other people's software loads: `transformers` (merged) and `peft` (adapters)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cot_components.config import build
from cot_components.datasets import ReasoningDataset
from cot_components.models.export import adapted_modules, save_pretrained
from cot_components.models.peft_export import save_adapters
from cot_components.models.think_tokens import write_tag_tokens


def export_model(
    model: Any, folder: Path, weights: Mapping[str, Tensor], data: ReasoningDataset, nodes: Mapping[str, Any]
) -> Path:
    """A Hugging Face folder of the whole model, adapters merged in, with its tokenizer.

    Args:
        model: tells the architecture.
        folder: created where it is missing.
        weights: state dict of whole tensors.
        data: its stop tokens and tag tokens go along.
        nodes: `checkpointer`, whose config.json is kept where the model does not decide, and `tokenizer`.
    """
    checkpointer, tokenizer = nodes["checkpointer"], nodes["tokenizer"]
    save_pretrained(
        model,
        folder,
        weights=weights,
        tokenizer_dir=_folder(tokenizer.get("path")),
        base_config=Path(checkpointer["checkpoint_dir"]) / "config.json" if checkpointer else None,
        stop_ids=data.chat.stop_ids,
        pad_id=data.chat.tokenizer.pad_id,
    )
    for name, content in getattr(build(tokenizer), "files", {}).items():
        (folder / name).write_text(content, encoding="utf-8")
    if data.tag_ids:
        write_tag_tokens(folder, data.tag_ids)
    return folder


def export_adapters(model: Any, folder: Path, weights: Mapping[str, Tensor], nodes: Mapping[str, Any]) -> Path:
    """A `peft` folder of the adapters alone."""
    base = nodes["checkpointer"]["checkpoint_dir"] if nodes["checkpointer"] else None
    return save_adapters(model, folder, weights=weights, base=base)


def export_checkpoint(
    model: Any, folder: Path, weights: Mapping[str, Tensor], data: ReasoningDataset, nodes: Mapping[str, Any]
) -> None:
    """What a checkpoint holds for others: `adapter/` of a model with adapters, else `hf/`, the whole model."""
    if adapted_modules(model):
        export_adapters(model, folder / "adapter", weights, nodes)
    else:
        export_model(model, folder / "hf", weights, data, nodes)


def _folder(path: str | None) -> Path | None:
    if path is None:
        return None
    return Path(path) if Path(path).is_dir() else Path(path).parent
