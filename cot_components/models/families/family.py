"""A family of models: how config.json determines the decoder, and how the hub names its tensors.

Each family is one file next to this one. Names and layouts are converted here, from its tables, for weights, headers
and adapters alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cot_components.errors import UserError
from cot_components.models.rope import turns_neighbours

Config = Mapping[str, Any]

ADAPTER_PARTS = (".lora_a.weight", ".lora_b.weight", ".magnitude")
"""How the names of adapter tensors end."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type` of the hub, built from torchtune's modules.

    Args:
        name: its name in messages.
        model_type: in config.json.
        architecture: the class in `transformers`.
        defaults: keys that affect the computation, with transformers' defaults.
        fixed: keys for which only one value is supported; any other is refused.
        build: (completed config, longest row, dropout or None for the config's) -> decoder.
        describe: decoder -> config.json without what `complete` adds.
        window: completed config -> most tokens a layer can attend to, None for all.
        complete: fills in keys that follow from others.
        modules: our module -> the hub's; inside layers without `layers.N.`. Several that share a hub module are stacked
            in it in this order.
        prefix, layers: of the hub's names; `lm_head` has no prefix.
        transposed: hub modules that store `[in, out]`.
        ignored: suffixes of tensors that are not trained.
    """

    name: str
    model_type: str
    architecture: str
    defaults: Config
    build: Callable[[Config, int, float | None], Any]
    describe: Callable[[Any], dict[str, Any]]
    modules: Mapping[str, str]
    fixed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    window: Callable[[Config], int | None] = lambda config: None
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config
    context: str = "max_position_embeddings"
    prefix: str = "model."
    layers: str = "layers"
    transposed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = (".rotary_emb.inv_freq",)

    def hub_name(self, ours: str) -> str:
        """The hub's name of one of our tensors.

        Raises:
            UserError: this family has none.
        """
        within, layer = ours, ""
        if ours.startswith("layers."):
            _, index, within = ours.split(".", 2)
            layer = f"{self.layers}.{index}."
        module, _, kind = within.rpartition(".")
        if module not in self.modules:
            raise UserError(f"{self.name} has no tensor '{ours}'; is model._component_ the model of this folder?")
        kind = "weight" if kind == "scale" else kind
        prefix = "" if module == "output" else self.prefix
        return f"{prefix}{layer}{self.modules[module]}.{kind}"

    def spelling(self, ours: Iterable[str]) -> dict[str, list[str]]:
        """Hub tensor -> our tensors that it holds, in the order of its rows; adapters are left out."""
        order = {module: place for place, module in enumerate(self.modules)}
        found: dict[str, list[str]] = {}
        for name in ours:
            if not name.endswith(ADAPTER_PARTS):
                found.setdefault(self.hub_name(name), []).append(name)
        for names in found.values():
            names.sort(key=lambda name: order[_module(name)])
        return found

    def is_transposed(self, hub: str) -> bool:
        """Whether the hub stores this tensor as `[in, out]`."""
        return hub.endswith(".weight") and hub.removesuffix(".weight").split(".", 3)[-1] in self.transposed

    def to_hub(self, weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        """Our state dict, or any part of it with complete hub tensors, in the hub's names and layout.

        Args:
            weights: tensors whose first dimension is that of the layer's output, by our names.
            model: tells the order of rotary rows.
        """
        head_dim = rotary_head_dim(model)
        spelled = {}
        for hub, names in self.spelling(weights).items():
            parts = [
                as_halves(weights[name], head_dim) if head_dim and _is_rotary(name) else weights[name] for name in names
            ]
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            spelled[hub] = whole.T if self.is_transposed(hub) else whole
        return spelled

    def to_files(self, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        """A complete state dict by hub names, as the hub's files store it."""
        return dict(tensors)

    def from_hub(self, hub: str, tensor: Tensor, rows: Mapping[str, int], model: Any) -> dict[str, Tensor]:
        """One hub tensor as ours.

        Args:
            hub: its name, for its layout.
            tensor: as stored.
            rows: our names in the order of `spelling` -> how many rows each has.
            model: tells the order of rotary rows.
        """
        head_dim = rotary_head_dim(model)
        whole = tensor.T if self.is_transposed(hub) else tensor
        parts = dict(zip(rows, whole.split(list(rows.values())), strict=True))
        return {
            name: _as_neighbours(part, head_dim) if head_dim and _is_rotary(name) else part
            for name, part in parts.items()
        }


def _module(name: str) -> str:
    return (name.split(".", 2)[2] if name.startswith("layers.") else name).rpartition(".")[0]


def _is_rotary(name: str) -> bool:
    return ".attn.q_proj." in name or ".attn.k_proj." in name


def rotary_head_dim(model: Any) -> int | None:
    """Head width if the model rotates neighbouring features together (Llama's original layout); None if it uses the
    hub's layout, which rotates the first half against the second.
    """
    for layer in model.layers:
        rope = layer.attn.pos_embeddings
        if rope is not None:
            return layer.attn.head_dim if turns_neighbours(rope) else None
    return None


def _as_neighbours(rows: Tensor, head_dim: int) -> Tensor:
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def as_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of heads that rotate neighbouring features, reordered to the hub's layout; `[heads * head_dim, ...]`."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
