"""Which backbone reads a model folder: torchtune's modules where a family file fits, else `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cot_components.data.text.templates import read_json
from cot_components.errors import UserError
from cot_components.models.folder import Hub, read_config, read_hub
from cot_components.models.transformers_backbone.folder import TransformersFolder, read_transformers

Backbone = Literal["auto", "torchtune", "transformers"]


def open_folder(path: str | Path, backbone: Backbone = "auto") -> Hub | TransformersFolder:
    """The folder as read by the chosen backbone; `auto` prefers torchtune's.

    Raises:
        UserError: the backbone refuses it, see `read_hub` and `read_transformers`; with `auto` both do.
    """
    if backbone == "transformers":
        return read_transformers(path, "model.backbone asks for it")
    if backbone == "torchtune":
        return read_hub(path)
    folder, _ = read_config(path, experts=True)
    try:
        return read_hub(path)
    except UserError as error:
        where, said = f"{folder}/config.json: ", str(error)
        why = said.removeprefix(where).partition("; known: ")[0].removesuffix(", which is not supported")
    try:
        return read_transformers(path, f"no family file fits: {why}")
    except UserError as error:
        raise UserError(f"{said}; the transformers backbone: {str(error).removeprefix(where)}") from error


def check_folder(
    path: str | Path,
    *,
    max_seq_len: int | None = None,
    dropout: float | None = None,
    backbone: Backbone = "auto",
    packed: bool = False,
) -> Hub | TransformersFolder:
    """Check a model folder, and the settings of `from_folder` for it, without reading the weights' numbers.

    Args:
        path: of the folder.
        max_seq_len, dropout, backbone: as in `from_folder`.
        packed: whether rows will be packed.

    Raises:
        UserError: see `open_folder`, `Hub.check` and `TransformersFolder.check`; a tokenizer with more ids than the
            embedding.
    """
    hub = open_folder(path, backbone)
    hub.check(max_seq_len=max_seq_len, dropout=dropout, packed=packed)
    largest = _largest_id(hub.path / "tokenizer.json")
    if largest >= hub.facts["vocab_size"]:
        raise UserError(
            f"{hub.path}: tokenizer.json has ids up to {largest}, the embedding {hub.facts['vocab_size']} rows; "
            "is the tokenizer the model's own?"
        )
    return hub


def _largest_id(path: Path) -> int:
    rules: Any = read_json(path)
    vocabulary = (rules.get("model") or {}).get("vocab") or {}
    ids = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    return max([-1, *ids, *(token["id"] for token in rules.get("added_tokens") or [])])
