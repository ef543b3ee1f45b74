"""A Hugging Face folder read by `transformers`: the model's class, and whether it can be trained here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cot_components.errors import UserError
from cot_components.models.families.family import Family
from cot_components.models.folder import SHOWN, read_config, refuse_quantised
from cot_components.models.lora_layers import is_adapter, plain_adapter_name
from cot_components.models.safetensor_files import Stored, read_headers
from cot_components.models.transformers_backbone.attention import register
from cot_components.models.transformers_backbone.decoder import TransformersDecoder, check_packs, layer_stack
from cot_components.models.transformers_backbone.head import measure_head
from cot_components.models.transformers_backbone.library import reason, silent

BACKBONE = "transformers"
_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions whose frequencies depend on the longest row of a batch."""


@dataclass(frozen=True, kw_only=True)
class TransformersFamily(Family):
    """Our names are those of `transformers` after `net.`; files keep the folder's original names."""

    build: Any = None
    describe: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)

    def hub_name(self, ours: str) -> str:
        """The name in `transformers`."""
        return ours.removeprefix("net.")

    def spelling(self, ours: Iterable[str]) -> dict[str, list[str]]:
        """Every tensor maps to itself; adapters are left out."""
        return {self.hub_name(plain_adapter_name(name)): [name] for name in ours if not is_adapter(name)}

    def to_hub(self, weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        """A state dict, or any part of it, by the names in `transformers`."""
        return {self.hub_name(name): value for name, value in weights.items()}

    def to_files(self, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        """The tensors `save_pretrained` of `transformers` would write: no tied copies, experts separately."""
        from transformers.core_model_loading import revert_weight_conversion

        tied = getattr(model.net, "all_tied_weights_keys", None) or {}
        return revert_weight_conversion(model.net, {n: value for n, value in tensors.items() if n not in tied})


@dataclass(frozen=True)
class TransformersFolder:
    """A folder whose model is trained with `transformers`.

    path:     the folder
    config:   its config.json
    settings: the same, completed by `transformers`
    why:      the reason for this backbone
    """

    path: Path
    config: Mapping[str, Any]
    settings: Any
    why: str

    backbone = BACKBONE

    @property
    def kind(self) -> Any:
        """The class of the model."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        return MODEL_FOR_CAUSAL_LM_MAPPING[type(self.settings)]

    @property
    def family(self) -> Family:
        name = self.kind.__name__
        return TransformersFamily(name=name, model_type=self.settings.model_type, architecture=name)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"vocab_size": self.settings.vocab_size}

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """The folder's tensors by the names in its files."""
        return read_headers(self.path)

    def context(self, max_seq_len: int | None) -> int:
        """Tokens of the longest row: the model's positions, or `max_seq_len`.

        Raises:
            UserError: `max_seq_len` exceeds them, or is missing and config.json does not give them.
        """
        known, why = _positions(self.settings)
        if known is None and max_seq_len is None:
            raise UserError(f"model.max_seq_len: {self.path}/config.json does not give a longest row; set it")
        if known is not None and max_seq_len is not None and not 1 <= max_seq_len <= known:
            raise UserError(f"model.max_seq_len {max_seq_len}: {self.path} takes 1 to {known} tokens, {why}")
        return max_seq_len or known or 0

    def check(self, *, max_seq_len: int | None, dropout: float | None, packed: bool) -> None:
        """Check everything that can be checked without the weights' numbers.

        Raises:
            UserError: a class that cannot be trained here; tensors that are not the model's; rows that are too long.
        """
        self.context(max_seq_len)
        refuse_quantised(self.path, self.stored)
        net = self._read(dropout, device_map="meta", dtype=torch.float32)
        check_decoder(net)
        measure_head(net)
        if packed:
            check_packs(net)

    def load(self, max_seq_len: int | None, dropout: float | None) -> TransformersDecoder:
        """The model with its weights, on torch's default device and in its default dtype; raises as `check`."""
        length, device, dtype = self.context(max_seq_len), torch.get_default_device(), torch.get_default_dtype()
        refuse_quantised(self.path, self.stored)
        with torch.device("cpu"):
            scale = measure_head(check_decoder(self._read(dropout, device_map="meta", dtype=torch.float32)))
            net = self._read(dropout, dtype=dtype)
        return TransformersDecoder(net.to(device).train(), self, max_seq_len=length, scale=scale)

    def _read(self, dropout: float | None, **how: Any) -> Any:
        kind = self.kind
        attention = "sdpa" if kind._supports_sdpa else "eager"
        if kind._supports_sdpa and kind._supports_attention_backend:
            attention = register()
        settings = with_dropout(self.settings, dropout)
        try:
            with silent():
                net, found = kind.from_pretrained(
                    self.path,
                    config=settings,
                    attn_implementation=attention,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    **how,
                )
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, ZeroDivisionError) as error:
            raise UserError(f"{self.path}: {kind.__name__} cannot be built from it ({reason(error)})") from error
        self._refuse_differing(found)
        return net

    def _refuse_differing(self, found: Mapping[str, Any]) -> None:
        """Raises UserError if names or shapes of the stored tensors are not the model's."""
        said = [f"no tensor '{name}'" for name in sorted(found["missing_keys"])]
        said += [f"a tensor '{name}' that the model lacks" for name in sorted(found["unexpected_keys"])]
        for name, shape, wanted in sorted(found["mismatched_keys"]):
            said.append(f"'{name}' of shape {list(shape)} where the model has {list(wanted)}")
        if said:
            more = [f"{len(said) - SHOWN} more"] if len(said) > SHOWN else []
            raise UserError(f"{self.path} is not the model being built: it has {'; '.join([*said[:SHOWN], *more])}")


def read_transformers(path: str | Path, why: str) -> TransformersFolder:
    """Read a folder's config.json.

    Raises:
        UserError: `transformers` is not installed; no such folder or file; a model that is not a decoder, or needs its
            own code; a config that `transformers` refuses.
    """
    folder, config = read_config(path, experts=True)
    where, kind = f"{folder}/config.json", config.get("model_type")
    with silent() as package:
        version = package.__version__
        if kind not in package.CONFIG_MAPPING:
            own = "its own code (auto_map) is never run, and " if config.get("auto_map") else ""
            raise UserError(f"{where}: {own}transformers {version} has no class for model_type {kind!r}")
        made = package.CONFIG_MAPPING[kind]
        if made not in package.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(
                f"{where}: model_type {kind!r} is not a decoder: transformers {version} has no causal model of it"
            )
        try:
            settings = made.from_dict(deepcopy(config))  # from_dict changes its argument
        except Exception as error:  # each class checks its keys in its own way
            raise UserError(f"{where}: transformers refuses it ({reason(error)})") from error
    return TransformersFolder(folder, config, settings, why)


def check_decoder(net: Any) -> Any:
    """The model, if recipes can train it and generate with it.

    Raises:
        UserError: it is not.
    """
    name = type(net).__name__
    if any(getattr(module, "is_causal", True) is False for module in net.modules()):
        raise UserError(f"{name} of this config.json is not a decoder: its tokens attend to later ones")
    if net.base_model is net or "past_key_values" not in inspect.signature(net.base_model.forward).parameters:
        raise UserError(f"{name} has no KV cache, which generation needs; it is not supported")
    layer_stack(net)
    return net


def with_dropout(settings: Any, dropout: float | None) -> Any:
    """A copy of the settings with every dropout set to `dropout`; None keeps the config's.

    Raises:
        UserError: there is none.
    """
    copied = type(settings).from_dict(settings.to_dict())
    if dropout is not None:
        names = [k for k, v in settings.to_dict().items() if k.endswith(("dropout", "pdrop")) and v is not None]
        if not names:
            raise UserError(f"model.dropout: {settings.model_type} has no dropout")
        for name in names:
            setattr(copied, name, dropout)
    return copied


def _positions(settings: Any) -> tuple[int | None, str]:
    """Largest number of tokens in a row, and why."""
    known = getattr(settings, "max_position_embeddings", None)
    for rope in _ropes(getattr(settings, "rope_parameters", None) or {}):
        first = rope.get("original_max_position_embeddings") or getattr(
            settings, "original_max_position_embeddings", None
        )
        if rope.get("rope_type") in _BY_LENGTH and first:
            return min(first, known or first), f"up to which {rope['rope_type']} positions do not depend on other rows"
    return known, "its context"


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One setting for all layers, or one for each kind of layer."""
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested if nested else [parameters]
