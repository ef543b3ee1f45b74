"""A Hugging Face folder of a model: config.json and the headers of its weights, checked before anything is loaded."""

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
"""Floats this close count as equal: 1e-5 converted to fp32 and back is 9.999999747378752e-06."""

SHOWN = 6
"""Most differing tensors listed in a message."""

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Hub:
    """A folder that can be loaded.

    path:   the folder
    family: of its model
    config: its config.json
    facts:  the same, completed with transformers' defaults
    """

    path: Path
    family: Family
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    backbone = "torchtune"

    @property
    def why(self) -> str:
        """Why this backbone was chosen."""
        return f"the family file of {self.family.model_type} fits"

    @property
    def context(self) -> int:
        """Tokens of the longest row: the number of positions, or the sliding window if that is shorter."""
        window = self.family.window(self.facts)
        return min(self.facts[self.family.context], window or self.facts[self.family.context])

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """The folder's tensors by hub name, with the usual prefix, which files of a bare base model lack."""
        found = read_headers(self.path)
        anchor = f"{self.family.modules['tok_embeddings']}.weight"
        embeddings = [name for name in found if name.endswith(anchor)]
        if len(embeddings) != 1:
            raise UserError(
                f"{self.path} is not {self.family.name}: {len(embeddings)} tensors are named '...{anchor}', not one"
            )
        prefix = embeddings[0].removesuffix(anchor)

        def usual(name: str) -> str:
            if name.endswith(HEAD):
                return HEAD
            return f"{self.family.prefix}{name.removeprefix(prefix)}" if name.startswith(prefix) else name

        return {usual(name): tensor for name, tensor in found.items() if not name.endswith(self.family.ignored)}

    def build(self, max_seq_len: int | None = None, dropout: float | None = None) -> Any:
        """The decoder that config.json describes, with uninitialised weights, on the current default device.

        Raises:
            UserError: `max_seq_len` beyond the context; sizes that do not fit together.
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

    def check(self, *, max_seq_len: int | None, dropout: float | None, packed: bool) -> None:
        """Build the decoder on a meta device and compare it with the stored tensors; raises as these do."""
        with torch.device("meta"):
            self.check_tensors(self.build(max_seq_len, dropout))

    def check_tensors(self, model: Any, differing: Sequence[str] = ()) -> None:
        """Compare names, shapes and number formats of the stored tensors with what a model needs.

        Args:
            model: to be loaded into.
            differing: differences already known.

        Raises:
            UserError: they differ; lists all differences, or the first `SHOWN` and the number of the rest.
        """
        refuse_quantised(self.path, self.stored)
        tensors = self._differing_tensors(model)
        more = [f"{len(tensors) - SHOWN} more"] if len(tensors) > SHOWN else []
        if found := [*differing, *tensors[:SHOWN], *more]:
            raise UserError(f"{self.path} is not the model being built: it has {'; '.join(found)}")

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


def refuse_quantised(path: Path, stored: Mapping[str, Stored]) -> None:
    """Raises UserError for tensors that are not plain floats."""
    if (odd := quantised(stored)) is not None:
        raise UserError(
            f"{path}: tensor '{odd.name}' holds {odd.dtype}; quantised weights are not supported; use the "
            "model in bf16 (model.lora.quantize=true makes a 4-bit base of it)"
        )


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


def read_config(path: str | Path, *, experts: bool = False) -> tuple[Path, dict[str, Any]]:
    """A folder and its config.json.

    Args:
        path: of the folder.
        experts: whether a mixture of experts is acceptable.

    Raises:
        UserError: no such folder or file; a model that is not purely a text decoder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {folder} ({GET_IT})")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is not a Hugging Face model folder")
    config = read_json(folder / "config.json")
    others = {**_OTHER_MODELS, **({} if experts else _EXPERTS)}
    if why := next((why for key, why in others.items() if config.get(key)), None):
        kind = config.get("model_type")
        raise UserError(
            f"{folder}/config.json: model_type {kind!r} {why}, which is not supported; known: {', '.join(FAMILIES)}"
        )
    return folder, config


def read_hub(path: str | Path) -> Hub:
    """Read a folder's config.json.

    Raises:
        UserError: see `read_config`; an unknown kind of model, or a variant of a known one with a different
            computation; a value of the wrong type.
    """
    folder, config = read_config(path)
    where, kind = f"{folder}/config.json", config.get("model_type")
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
    "quantization_config": "is quantised (quantization_config)",
}
_EXPERTS = dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), "is a mixture of experts")


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
        raise UserError(f"inconsistent sizes ({error})") from error


def _of_type(value: Any, default: Any) -> bool:
    kinds = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)


def differences(built: Mapping[str, Any], hub: Hub) -> list[str]:
    """Differences, beyond names and shapes, between a model built elsewhere and its folder."""
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
