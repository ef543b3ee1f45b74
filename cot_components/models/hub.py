"""Load a model from a Hugging Face folder: the decoder it describes, its weights, its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cot_components.errors import UserError
from cot_components.models.choose import Backbone, check_folder, open_folder
from cot_components.models.families.decoder import ready_positions
from cot_components.models.folder import HEAD, Hub, differences, read_hub, wanted_parts
from cot_components.models.lora import Lora, add_adapters, read_lora
from cot_components.models.safetensor_files import read_tensors
from cot_components.models.think_tokens import grow_vocabulary, is_tied
from cot_components.models.transformers_backbone.lora import add_adapters as add_peft_adapters


def from_folder(
    *,
    path: str,
    lora: Mapping[str, Any] | None = None,
    max_seq_len: int | None = None,
    dropout: float | None = None,
    backbone: Backbone = "auto",
    quiet: bool = False,
) -> Any:
    """The decoder of a Hugging Face folder, on torch's default device and in its default dtype.

    Args:
        path: folder with config.json and safetensors, one file or shards with an index.
        lora: adapters, see `cot_components.models.lora.Lora`; None trains all weights.
        max_seq_len: the longest row; None uses the folder's context, or its sliding window.
        dropout: replaces the config's.
        backbone: `torchtune`, `transformers` (the extra `hf`), or `auto`: torchtune where a family file fits.
        quiet: do not print the summary line.

    Returns:
        A torchtune decoder, or a `TransformersDecoder`, whose `hub` holds its folder, family and config.json.

    Raises:
        UserError: see `cot_components.models.choose.check_folder` and `Lora`.
    """
    adapters, hub = read_lora(lora), open_folder(path, backbone)
    if isinstance(hub, Hub):
        model = _torchtune_decoder(hub, max_seq_len, dropout, adapters)
    else:
        model = hub.load(max_seq_len, dropout)
        if adapters is not None:
            add_peft_adapters(model, adapters)
    if not quiet and not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
        print(summary(model), flush=True)
    return model


def _torchtune_decoder(hub: Hub, max_seq_len: int | None, dropout: float | None, adapters: Lora | None) -> Any:
    with torch.device("meta"):
        model = hub.build(max_seq_len, dropout)
    load_weights(model, hub)
    ready_positions(model)
    if adapters is not None:
        add_adapters(model, adapters)
    return model


def with_weights(*, model: Any, weights: str) -> Any:
    """A model from another builder, with the weights of a folder.

    Args:
        model: the builder's node, or a decoder.
        weights: folder as in `from_folder`; adapters are not loaded from it and stay as they are.

    Raises:
        UserError: as `from_folder`; a model that does not match the folder; lists all differences.
    """
    fill(model, weights)
    return model


def fill(model: Any, folder: str | Path) -> None:
    """Load a folder's weights into a decoder, in place; see `with_weights`."""
    from torchtune.modules.peft import get_adapter_params, set_trainable_params

    hub = read_hub(folder)
    grow_vocabulary(model, hub.facts["vocab_size"])  # a run may have added tag tokens
    wanted_parts(hub.family, model)  # a model of another family cannot be described
    load_weights(model, hub, differing=differences(hub.family.describe(model), hub))
    if adapters := get_adapter_params(model):
        set_trainable_params(model, adapters)


def load_weights(model: Any, hub: Hub, *, differing: Sequence[str] = ()) -> None:
    """Load a folder's weights into a model, tensor by tensor, and set `model.hub`.

    Tensors on a meta device are created on torch's default device in its default dtype; others are overwritten.

    Raises:
        UserError: see `Hub.check_tensors`; the model's head is tied, but the file has a head that differs from the
            embedding.
    """
    hub.check_tensors(model, differing)
    wanted = wanted_parts(hub.family, model)
    device, dtype = torch.get_default_device(), torch.get_default_dtype()
    is_meta = model.tok_embeddings.weight.is_meta
    state: dict[str, torch.Tensor] = {}
    names = {tensor: name for name, tensor in hub.stored.items() if name in wanted}
    for tensor, numbers in read_tensors(names):
        rows = {ours: shape[0] for ours, shape in wanted[names[tensor]].items()}
        for ours, part in hub.family.from_hub(names[tensor], numbers, rows, model).items():
            state[ours] = part.to(device, dtype, copy=True).contiguous() if is_meta else part
    model.load_state_dict(state, strict=False, assign=is_meta)  # names and shapes were checked; adapters stay
    if hasattr(model.output, "tied_module"):
        _check_tie(hub)
    model.hub = hub


def _check_tie(hub: Hub) -> None:
    if HEAD not in hub.stored:
        return
    embedding = hub.stored[hub.family.hub_name("tok_embeddings.weight")]
    (_, head), (_, rows) = (next(read_tensors([tensor])) for tensor in (hub.stored[HEAD], embedding))
    if not torch.equal(head, rows):
        raise UserError(
            f"{hub.path}: '{hub.stored[HEAD].name}' is not '{embedding.name}', but its head is tied "
            "(tie_word_embeddings, or the default of its model_type)"
        )


def summary(model: Any) -> str:
    """One line about a model loaded from a folder: family, size, context, head, positions, number formats, backbone."""
    hub, weight = model.hub, model.tok_embeddings.weight
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stored = ", ".join(sorted({tensor.dtype for tensor in hub.stored.values()}))
    rope = hub.facts.get("rope")
    facts = [
        f"{count:,} parameters" + (f", {trained:,} of them trained" if trained < count else ""),
        f"up to {model.max_seq_len:,} tokens",
        "tied head" if is_tied(model) else "separate head",
        *([_positions(rope)] if rope else []),
        f"{stored} on disk, {str(weight.dtype).removeprefix('torch.')} here",
        f"{hub.backbone} backbone ({hub.why})",
    ]
    return f"model: {hub.path} is {hub.family.architecture}, {', '.join(facts)}"


def _positions(rope: Mapping[str, Any]) -> str:
    scaled = "" if rope["rope_type"] == "default" else f" scaled by {rope['rope_type']}"
    return f"rope {rope['rope_theta']:,.15g}{scaled}"


def tokenizer_node(path: str | Path) -> dict[str, Any]:
    """The `tokenizer` node of a model folder: its own tokenizer.json with its template, stop and pad ids."""
    kind = open_folder(path).family.model_type
    name = "gpt2_tokenizer.gpt2_tokenizer" if kind == "gpt2" else "hf_tokenizer"
    return {"_component_": f"cot_components.models.{name}", "path": str(path)}


__all__ = ["check_folder", "fill", "from_folder", "load_weights", "summary", "tokenizer_node", "with_weights"]
