"""Exports a run's model as folders for other software: `transformers` (merged) and `peft` (adapters)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cot_components.config import build
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.text.templates import read_template
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError
from cot_components.models.export import Rounded, save_pretrained
from cot_components.models.lora_layers import adapted_modules
from cot_components.models.peft_export import save_adapters
from cot_components.models.think_tokens import write_tag_tokens
from cot_components.runs.layout import ADAPTER

RULES = "tokenizer.json"
PROBE = "Naïve: the 12 cats' price, 3.50€ each\n\n\tis x_1 = 42.\n漢字 <a b='c'/>"
"""A text that two tokenizers split the same way only if they are the same."""


def export_model(
    model: Any,
    folder: Path,
    weights: Mapping[str, Tensor],
    data: ReasoningDataset,
    nodes: Mapping[str, Any],
    rounded: Rounded | None = None,
) -> Path:
    """Write a Hugging Face folder of the whole model, adapters merged, with its tokenizer and its data's template.

    Args:
        model: for its architecture.
        folder: created if missing.
        weights: state dict of unsharded tensors.
        data: for its stop tokens and tag tokens.
        nodes: `tokenizer`; its files come from the starting weights' folder if torchtune's own tokenizer has none that
            other software reads.
        rounded: as in `save_pretrained`.
    """
    tokenizer, start = nodes["tokenizer"], _start(model)
    built, own = build(tokenizer), _folder(tokenizer.get("path"))
    save_pretrained(
        model,
        folder,
        weights=weights,
        rounded=rounded,
        tokenizer_dir=start if start is not None and _takes_from(start, own, built, data) else own,
        stop_ids=data.chat.stop_ids,
        pad_id=data.chat.tokenizer.pad_id,
    )
    for name, content in getattr(built, "files", {}).items():
        (folder / name).write_text(content, encoding="utf-8")
    template = getattr(data.chat, "template", None)  # icot rows have none
    if template is not None and template.source != read_template(folder):
        (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8")
    if data.tag_ids:
        write_tag_tokens(folder, data.tag_ids)
    return folder


def export_adapters(model: Any, folder: Path, weights: Mapping[str, Tensor]) -> Path:
    """Write a `peft` folder of only the adapters."""
    start = _start(model)
    return save_adapters(model, folder, weights=weights, base=None if start is None else str(start))


def export_checkpoint(
    model: Any,
    folder: Path,
    weights: Mapping[str, Tensor],
    data: ReasoningDataset,
    nodes: Mapping[str, Any],
    rounded: Rounded | None = None,
) -> Path:
    """A checkpoint's export: `adapter/` for a model with adapters, else `hf/`, the whole model."""
    if adapted_modules(model):
        return export_adapters(model, folder / ADAPTER, weights)
    return export_model(model, folder / "hf", weights, data, nodes, rounded)


def _start(model: Any) -> Path | None:
    """The folder of the starting weights, if there is one."""
    hub = getattr(model, "hub", None)
    return None if hub is None else hub.path


def _takes_from(start: Path, own: Path | None, tokenizer: Any, data: ReasoningDataset) -> bool:
    """Whether `start` has the training tokenizer as a tokenizer.json while the tokenizer's own folder has none."""
    has_one = getattr(tokenizer, "files", None) or (own is not None and (own / RULES).is_file())
    if has_one or not (start / RULES).is_file():
        return False
    ours = data.chat.tokenizer
    try:
        theirs = read_hf_tokenizer(start)
        same_text = theirs.encode_text(PROBE) == ours.encode_text(PROBE)
    except UserError:  # they cannot be compared, which must not stop the weights from being saved
        return False
    ends = {ours.control_texts.get(i, ""): i for i in data.chat.stop_ids}
    return same_text and all(theirs.added_tokens.get(text, i) == i for text, i in ends.items())


def _folder(path: str | None) -> Path | None:
    if path is None:
        return None
    own = Path(path).expanduser()
    return own if own.is_dir() else own.parent
