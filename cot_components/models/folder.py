"""A Hugging Face folder of a model: what its config.json and the headers of its weights say, checked before anything
is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cot_components.data.text.templates import read_json
from cot_components.errors import GET_IT, UserError
from cot_components.models.families import FAMILIES, Family
from cot_components.models.families.family import ADAPTER_PARTS
from cot_components.models.safetensor_files import Stored, quantised, read_headers

RELATIVE = 1e-6
"""Two floats this close are one: 1e-5 that went through fp32 is 9.999999747378752e-06."""

SHOWN = 6
"""Differing tensors named in a message."""

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Hub:
    """A folder that can be loaded.

    path:   the folder
    family: of its model
    config: its config.json
    facts:  the same completed with what transformers assumes where keys are missing
    """

    path: Path
    family: Family
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def context(self) -> int:
        """Tokens of the longest row: positions, or the window a layer looks through where that is shorter."""
        window = self.family.window(self.facts)
        return min(self.facts[self.family.context], window or self.facts[self.family.context])

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """The folder's tensors by the hub's names with the usual prefix, which files of a bare base model lack."""
        found = read_headers(self.path)
        anchor = f"{self.family.modules['tok_embeddings']}.weight"
        embeddings = [name for name in found if name.endswith(anchor)]
        if len(embeddings) != 1:
            raise UserError(
                f"{self.path} is no {self.family.name}: {len(embeddings)} tensors are named '...{anchor}', not one"
            )
        prefix = embeddings[0].removesuffix(anchor)

        def usual(name: str) -> str:
            if name.endswith(HEAD):
                return HEAD
            return f"{self.family.prefix}{name.removeprefix(prefix)}" if name.startswith(prefix) else name

        return {usual(name): tensor for name, tensor in found.items() if not name.endswith(self.family.ignored)}

    def build(self, max_seq_len: int | None = None, dropout: float | None = None) -> Any:
        """The decoder that config.json describes, with numbers of no value, on the present default device.

        Raises:
            UserError: `max_seq_len` beyond the context; sizes that do not go together.
        """
        if max_seq_len is not None and not 1 <= max_seq_len <= self.context:
            window = self.family.window(self.facts)
            why = f"its sliding window of {window}" if window == self.context else "its context"
            raise UserError(f"model.max_seq_len {max_seq_len}: {self.path} takes 1 to {self.context} tokens, {why}")
        try:
            return self.family.build(self.facts, max_seq_len or self.context, dropout)
        except UserError:
            raise
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            raise UserError(f"{self.path}/config.json: {error}") from error

    def check_tensors(self, model: Any, differing: Sequence[str] = ()) -> None:
        """Compare names, shapes and number formats of the stored tensors with what a model needs.

        Args:
            model: to be loaded into.
            differing: what is known to differ already.

        Raises:
            UserError: they differ; all of it in one message, or the first `SHOWN` tensors with how many more.
        """
        if (odd := quantised(self.stored)) is not None:
            raise UserError(
                f"{self.path}: tensor '{odd.name}' holds {odd.dtype}; quantised weights are not supported, take the "
                "model in bf16 (model.lora.quantize=true makes a 4-bit base of it)"
            )
        tensors = self._differing_tensors(model)
        more = [f"{len(tensors) - SHOWN} more"] if len(tensors) > SHOWN else []
        if found := [*differing, *tensors[:SHOWN], *more]:
            raise UserError(f"{self.path} is not the model that is built: it has {'; '.join(found)}")

    def _differing_tensors(self, model: Any) -> list[str]:
        wanted = {hub: _shape(self.family, hub, parts) for hub, parts in wanted_parts(self.family, model).items()}
        left = {name: tensor for name, tensor in self.stored.items() if name not in wanted}
        if hasattr(model.output, "tied_module"):
            left.pop(HEAD, None)
        found = [f"no tensor '{name}'" for name in wanted if name not in self.stored]
        found += [f"a tensor '{name}' that the model lacks" for name in left]
        return found + [
            f"'{name}' of shape {list(self.stored[name].shape)} where the model has {list(shape)}"
            for name, shape in wanted.items()
            if name in self.stored and self.stored[name].shape != shape
        ]


def wanted_parts(family: Family, model: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """Hub tensor -> our tensors in it with their shapes, adapters left out."""
    shapes = {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.endswith(ADAPTER_PARTS)
    }
    return {hub: {name: shapes[name] for name in names} for hub, names in family.spelling(shapes).items()}


def _shape(family: Family, hub: str, parts: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    first = next(iter(parts.values()))
    whole = (sum(shape[0] for shape in parts.values()), *first[1:])
    return whole[::-1] if family.is_transposed(hub) else whole


def read_hub(path: str | Path) -> Hub:
    """Read a folder's config.json.

    Raises:
        UserError: no such folder or file; a kind of model that is not known, or a variant of a known one that computes
            something else; a value of the wrong type.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {folder} ({GET_IT})")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is not a Hugging Face model folder")
    where, config = f"{folder}/config.json", read_json(folder / "config.json")
    kind = config.get("model_type")
    why = next((why for key, why in _OTHER_MODELS.items() if config.get(key)), None)
    if why is not None:
        raise UserError(f"{where}: model_type {kind!r} {why}, which is not supported; known: {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        raise UserError(f"{where}: model_type {kind!r} is not supported; known: {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    try:
        return Hub(folder, family, config, _facts(family, config))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


_OTHER_MODELS = {
    "is_encoder_decoder": "is an encoder-decoder",
    "vision_config": "has a vision tower",
    "vision_tower": "has a vision tower",
    "audio_config": "hears audio",
    "num_experts": "is a mixture of experts",
    "num_local_experts": "is a mixture of experts",
    "n_routed_experts": "is a mixture of experts",
    "quantization_config": "is quantised (quantization_config)",
}


def _facts(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    facts = {**config}
    wrong = []
    for key, default in family.defaults.items():
        if facts.get(key) is None:
            facts[key] = default
        elif default is not None and not _of_type(facts[key], default):
            wrong.append(f"{key} must be {type(default).__name__}, got {facts[key]!r}")
        elif key in family.fixed and facts[key] not in family.fixed[key]:
            wrong.append(f"{key} {facts[key]!r} is not supported, only {' or '.join(map(repr, family.fixed[key]))}")
    if wrong:
        raise UserError("; ".join(wrong))
    try:
        return family.complete(facts)
    except (TypeError, ZeroDivisionError) as error:
        raise UserError(f"sizes that make no model ({error})") from error


def _of_type(value: Any, default: Any) -> bool:
    kinds = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)


def check_folder(path: str | Path, *, max_seq_len: int | None = None, dropout: float | None = None) -> Hub:
    """All that can be known of a model folder, and of what `from_folder` is asked to make of it, without reading its
    numbers.

    Raises:
        UserError: see `read_hub`, `read_headers` and `Hub.check_tensors`; a tokenizer with more ids than the embedding.
    """
    hub = read_hub(path)
    with torch.device("meta"):
        hub.check_tensors(hub.build(max_seq_len, dropout))
    largest = _largest_id(hub.path / "tokenizer.json")
    if largest >= hub.facts["vocab_size"]:
        raise UserError(
            f"{hub.path}: tokenizer.json has ids up to {largest}, the embedding {hub.facts['vocab_size']} rows; "
            "is the tokenizer the model's own?"
        )
    return hub


def _largest_id(path: Path) -> int:
    rules = read_json(path)
    vocabulary = (rules.get("model") or {}).get("vocab") or {}
    ids = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    return max([-1, *ids, *(token["id"] for token in rules.get("added_tokens") or [])])


def differences(built: Mapping[str, Any], hub: Hub) -> list[str]:
    """Where a model that is built elsewhere differs from what its folder says, beyond names and shapes."""
    there = {**hub.facts, **hub.facts.get("rope", {})}
    here = {**built, **(built.get("rope_scaling") or {"rope_type": "default"})}
    names = [name for name in _NOT_IN_SHAPES if name in here and name in there]
    return [
        f"{name} {there[name]!r} where the model has {here[name]!r}" for name in names if not _same(here, there, name)
    ]


def _same(here: Mapping[str, Any], there: Mapping[str, Any], name: str) -> bool:
    a, b = here[name], there[name]
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= RELATIVE * max(abs(a), abs(b))
    return bool(a == b)


_NOT_IN_SHAPES = (
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "rope_type",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "no_rope_layers",
    "tie_word_embeddings",
    "n_head",
    "layer_norm_epsilon",
)
