"""From a config's `model` and `checkpointer` nodes to an adapted model with weights; bad folders and shapes end in one
sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cot_components.config import COMPONENT, build
from cot_components.data.templates import read_json
from cot_components.errors import GET_IT, UserError
from cot_components.files import entries
from cot_components.models.adapter import adapt
from cot_components.models.export import architecture
from cot_components.models.think_tokens import grow_vocabulary

EMBEDDING = "tok_embeddings.weight"

LLAMA_LAYOUT = ("LLAMA2", "LLAMA3", "LLAMA3_2", "MISTRAL")
"""torchtune's types that read one layout: queries and keys are stored in an order that only these undo."""

GPT2_READER = "GPT2Checkpointer"

PLAIN_TYPES = ("F32", "BF16", "F16", "F64")
"""Number formats of weights, as safetensors names them."""

READ_AS = {"llama": LLAMA_LAYOUT, "mistral": LLAMA_LAYOUT, "qwen2": ("QWEN2",), "gpt2": (GPT2_READER,)}
"""`model_type` of a config.json -> the `checkpointer.model_type` (or the checkpointer) that reads its weights right."""


def check_checkpointer(checkpointer: Mapping[str, Any] | None) -> None:
    """Make sure the starting weights are there, before anything is built.

    Raises:
        UserError: the folder, its config.json or a weight file is missing; a checkpointer of another kind of model;
            quantized weights.
    """
    if checkpointer is None:
        return
    folder = Path(checkpointer["checkpoint_dir"]).expanduser()
    if not folder.is_dir():
        raise UserError(f"checkpointer.checkpoint_dir: no folder {folder} ({GET_IT})")
    files = checkpointer.get("checkpoint_files") or []
    named = files if isinstance(files, list) else []
    for name in ["config.json", *named]:
        if not (folder / name).is_file():
            present = ", ".join(sorted(p.name for p in folder.glob("*.safetensors"))) or "no .safetensors file"
            raise UserError(f"checkpointer: {folder} has no {name} (it has {present})")
    _check_kind(checkpointer, folder)
    for path in [folder / name for name in named] or entries(folder):
        _refuse_quantized(path)


def _refuse_quantized(path: Path) -> None:
    """Raises UserError for a file of weights that are not plain numbers: read as such they would mean nothing."""
    if path.suffix != ".safetensors":
        return
    try:
        with safe_open(path, "pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpointer: {path} cannot be read ({error})") from error
    for name, kind in kinds.items():
        is_weight = "weight" in name.rpartition(".")[2] or name.endswith("_blocks")  # masks and counts may be anything
        if is_weight and kind not in PLAIN_TYPES:
            raise UserError(
                f"checkpointer: {path}: tensor '{name}' is {kind}, a quantized weight; "
                f"weights must be {' or '.join(PLAIN_TYPES)}"
            )


def _check_kind(checkpointer: Mapping[str, Any], folder: Path) -> None:
    """Refuse a type that would read the weights in another layout: names and shapes may fit all the same."""
    component = str(checkpointer.get(COMPONENT)).rpartition(".")[2]
    if component not in ("FullModelHFCheckpointer", GPT2_READER):
        return
    kind = read_json(folder / "config.json").get("model_type")
    given = GPT2_READER if component == GPT2_READER else str(checkpointer.get("model_type"))
    readers = READ_AS.get(str(kind), (given,))
    if given not in readers:
        raise UserError(
            f"checkpointer: {given} does not read {folder}, whose config.json says model_type {kind!r}; "
            f"{' or '.join(readers)} does"
        )


def load_model(
    model: Mapping[str, Any],
    checkpointer: Mapping[str, Any] | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> Any:
    """Build the model and load its starting weights, if any.

    Args:
        model: node of a torchtune model builder.
        checkpointer: node of `torchtune.training.FullModelHFCheckpointer`, which only reads; None starts from random
            weights.
        device: where the weights go.
        dtype: of the weights.
        seed: of the random weights.

    Returns:
        The model, adapted (see `cot_components.models.adapter.adapt`).

    Raises:
        UserError: see `check_checkpointer`; settings or a folder that torchtune refuses; weights that do not fit the
            model, the first that differs by name.
    """
    from torchtune.modules.peft import get_adapter_params, set_trainable_params
    from torchtune.training import MODEL_KEY, set_default_dtype

    check_checkpointer(checkpointer)
    torch.manual_seed(seed)
    with set_default_dtype(dtype), device:
        built = build(model, where="model")
    if not len(getattr(built, "layers", ())):
        raise UserError(f"model: {model[COMPONENT]} builds no decoder with layers; is num_layers at least 1?")
    if empty := [name for name, weight in built.named_parameters() if not weight.numel()]:
        raise UserError(f"model: the weight '{empty[0]}' has no numbers; one of the model's sizes is 0")
    if checkpointer is None:
        start_from_scratch(built)
    else:
        checkpointer = {k: str(Path(v).expanduser()) if k.endswith("_dir") else v for k, v in checkpointer.items()}
        reader = build(checkpointer, where="checkpointer")
        try:
            weights = reader.load_checkpoint()[MODEL_KEY]
        except Exception as error:  # torchtune refuses a folder with a ValueError, a tensor with a bare Exception
            kind = "" if isinstance(error, ValueError) or type(error) is Exception else f"{type(error).__name__}: "
            raise UserError(f"checkpointer: {kind}{error}") from error
        grow_vocabulary(
            built, len(weights[EMBEDDING]) if EMBEDDING in weights else 0
        )  # a run may have added tag tokens
        check_architecture(built, Path(checkpointer["checkpoint_dir"]))
        adapters = get_adapter_params(built)
        check_weights(
            {n: t for n, t in built.state_dict().items() if n not in adapters},
            weights,
            f"checkpointer: {checkpointer['checkpoint_dir']}",
        )
        built.load_state_dict(weights, strict=False)  # names and shapes were checked; adapters start as they are
        if adapters:
            set_trainable_params(built, adapters)
    for module in built.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()  # the norms of the base weights, which are there only now
    return adapt(built)


def weights_key(model: Mapping[str, Any], checkpointer: Mapping[str, Any] | None) -> str:
    """Which model these nodes load: sha256 over the model's node and the bytes of its files; folders may move."""
    digest = hashlib.sha256(json.dumps(model, sort_keys=True, default=str).encode())
    if checkpointer is not None:
        folder, named = Path(checkpointer["checkpoint_dir"]).expanduser(), checkpointer.get("checkpoint_files")
        files = [folder / name for name in named] if isinstance(named, list) else folder.glob("*.safetensors")
        for path in sorted(files):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def exported_checkpointer(folder: Path) -> dict[str, Any]:
    """The `checkpointer` node that reads a folder written by `save_pretrained`.

    Raises:
        UserError: an architecture that cannot be read back.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind == "gpt2":
        return {"_component_": "cot_components.models.gpt2_convert.GPT2Checkpointer", "checkpoint_dir": str(folder)}
    if not isinstance(kind, str) or kind not in _TORCHTUNE_TYPES:
        raise UserError(f"{folder}/config.json: model_type {kind!r} is not one of gpt2, {', '.join(_TORCHTUNE_TYPES)}")
    return {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(folder),
        "checkpoint_files": ["model.safetensors"],
        "model_type": _TORCHTUNE_TYPES[kind],
        "output_dir": str(folder.parent),  # torchtune wants one outside; nothing is written
    }


_TORCHTUNE_TYPES = {"llama": "LLAMA3_2", "qwen2": "QWEN2"}


def start_from_scratch(model: Any) -> None:
    """Embeddings with standard deviation 0.02 (GPT-2, Llama): torch's own 1.0 makes the first loss of a tied model
    about ten times too large.
    """
    torch.nn.init.normal_(model.tok_embeddings.weight, std=0.02)


def check_architecture(model: Any, folder: Path) -> None:
    """Compare what shapes of tensors do not show (rope base and scaling, heads, norm epsilon) with the checkpoint's
    config.json.

    Raises:
        UserError: they differ: the weights would load, and every token after the first would be wrong.
    """
    there = read_json(folder / "config.json")
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(there.get(name) or {}, Mapping):
            raise UserError(f"checkpointer: {folder}/config.json: {name} must be an object, it is {there[name]!r:.60}")
    there = {**there, **(there.get("rope_parameters") or {}), "rope_scaling": _rope_scaling(there)}
    for name, ours in architecture(model).items():
        if name in there and there[name] != ours:
            raise UserError(
                f"checkpointer: {folder}/config.json has {name} {there[name]}, model._component_ builds {ours}"
            )


def _rope_scaling(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a config.json scales its rotary positions; None for not at all. transformers 5 writes it beside the base."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    kept = {name: value for name, value in rope.items() if name not in ("type", "rope_theta")}
    return None if kind == "default" else {**kept, "rope_type": kind}


def check_weights(wanted: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Compare names and shapes of two state dicts.

    Raises:
        UserError: names the first tensor that is missing, unknown, quantized or of another shape.
    """
    wrong_model = "is model._component_ the model of this checkpoint?"
    for name, tensor in wanted.items():
        if name not in given:
            raise UserError(f"{where} has no tensor '{name}', which the model needs; {wrong_model}")
        if not given[name].is_floating_point() or given[name].element_size() == 1:
            raise UserError(f"{where}: tensor '{name}' is {given[name].dtype}, a quantized weight; it must be plain")
        if tuple(given[name].shape) != tuple(tensor.shape):
            shapes = f"is {list(given[name].shape)}, the model wants {list(tensor.shape)}"
            raise UserError(f"{where}: tensor '{name}' {shapes}")
    for name in given:
        if name not in wanted:
            raise UserError(f"{where} has a tensor '{name}' that the model lacks; {wrong_model}")
