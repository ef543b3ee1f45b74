"""Export a trained decoder as a Hugging Face folder that `transformers` loads: weights, config, tokenizer, generation
config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cot_components.models.families import family_of
from cot_components.models.lora_layers import adapted_modules, plain_adapter_name, rank_and_alpha

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


Rounded = Callable[[str, Tensor], Tensor]
"""Maps a weight's hub name and value to the value that is written."""


def save_pretrained(
    model: Any,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    tokenizer_dir: Path | None = None,
    stop_ids: tuple[int, ...] = (),
    pad_id: int | None = None,
    rounded: Rounded | None = None,
) -> Path:
    """Write the model as a Hugging Face folder.

    Args:
        model: a decoder from a folder, or one of torchtune's of a known family.
        folder: created if missing.
        weights: state dict to write instead of the model's own (gathered from several processes).
        tokenizer_dir: folder whose tokenizer files are copied.
        stop_ids, pad_id: for generation_config.json.
        rounded: converts weights to the folder's number format; None uses the embedding's.

    Raises:
        UserError: an architecture that is not known.
    """
    family = family_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(model, stop_ids)
    spelled = family.to_hub(_merged(model, model.state_dict() if weights is None else weights), model)
    spelled = family.to_files(spelled, model)
    if rounded is None:
        spelled = {name: value.to(model.tok_embeddings.weight.dtype) for name, value in spelled.items()}
    else:
        spelled = {name: rounded(name, value) for name, value in spelled.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in spelled.items()}
    dtype = next(str(t.dtype) for t in tensors.values() if t.is_floating_point()).removeprefix("torch.")
    config["dtype"] = config["torch_dtype"] = dtype  # the new name and the old one
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    generation = {"do_sample": False, "eos_token_id": list(stop_ids), "pad_token_id": pad_id}
    _write_json(
        folder / "generation_config.json", {key: value for key, value in generation.items() if value not in ([], None)}
    )
    for name in TOKENIZER_FILES:
        if tokenizer_dir is not None and (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, folder / name)
    return folder


def _config(model: Any, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """config.json of a model: its original folder's (whatever this run's longest row) with the current vocabulary size;
    else derived from its modules, with GPT-2's end token, which they do not determine, from the tokenizer.
    """
    if (hub := getattr(model, "hub", None)) is not None:
        return {**hub.config, "vocab_size": model.tok_embeddings.num_embeddings}
    config = family_of(model).describe(model)
    ends = {"bos_token_id", "eos_token_id"} & config.keys()
    return {**config, **dict.fromkeys(ends, stop_ids[0])} if stop_ids else config


def _merged(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with LoRA adapters merged into the weights they adapt; unchanged if there are none."""
    adapted = adapted_modules(model)
    if not adapted:
        return dict(weights)
    from torchtune.modules.peft import get_merged_lora_ckpt

    rank, alpha = rank_and_alpha(next(iter(adapted.values())))
    weights = {plain_adapter_name(name): value for name, value in weights.items()}
    copied = {f"{name}.weight": weights[f"{name}.weight"].float().clone() for name in adapted}  # it adds in place
    return get_merged_lora_ckpt({**weights, **copied}, rank=rank, alpha=alpha)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
