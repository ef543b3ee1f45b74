"""Wraps a `*ForCausalLM` of `transformers` in our decoder interface: hidden states without logits, a linear head,
layers, packed rows, a cache for generation.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cot_components.errors import UserError
from cot_components.models.adapter import loss_of_batch
from cot_components.models.attention import Documents
from cot_components.models.transformers_backbone.attention import NAME, each_document
from cot_components.models.transformers_backbone.key_values import PastTokens

_ATTENDS = {"full_attention", "sliding_attention"}


class TransformersDecoder(nn.Module):
    """The model with the attribute names of torchtune's decoders; its state dict is that of `transformers` under
    `net.`.

    Args:
        net: a `*ForCausalLM` whose head is linear.
        hub: the folder it came from.
        max_seq_len: the longest row.
        scale: of the logits, see `measure_head`; applied to the hidden states.
    """

    def __init__(self, net: Any, hub: Any, *, max_seq_len: int, scale: float) -> None:
        super().__init__()
        self.net, self.hub, self.max_seq_len, self.scale = net, hub, max_seq_len, scale
        self._stack = layer_stack(net)
        self._takes_positions = "position_ids" in inspect.signature(net.base_model.forward).parameters
        self._packs = False
        net.get_input_embeddings().padding_idx = None  # lets a token that is also used as padding learn

    @property
    def layers(self) -> Any:
        """The stack of layers; each is a unit of sharding, checkpointing and compiling."""
        return self.net.get_submodule(self._stack)

    @property
    def tok_embeddings(self) -> Any:
        return self.net.get_input_embeddings()

    @property
    def output(self) -> Any:
        """The head: logits are `output(forward(...))`."""
        return self.net.get_output_embeddings()

    @property
    def attention_width(self) -> int:
        """Heads times head width, summed over the attention layers."""
        settings = self.net.config
        kinds = getattr(settings, "layer_types", None) or ["full_attention"] * len(self.layers)
        heads = settings.num_attention_heads
        width = heads * (getattr(settings, "head_dim", None) or settings.hidden_size // heads)
        return width * sum(kind in _ATTENDS for kind in kinds)

    def forward(
        self, tokens: Tensor, *, mask: Any = None, input_pos: Tensor | None = None, encoder_input: Any = None
    ) -> Tensor:
        """The head's input, `[B, T, d]`.

        Args:
            tokens: int64 `[B, T]`.
            mask: `Documents` of a packed batch; `PastTokens` during decoding.
            input_pos: positions, int64 `[B, T]`; None counts from 0.
            encoder_input: ignored: every row goes through the last layer.
        """
        past = mask if isinstance(mask, PastTokens) else None
        given: dict[str, Any] = {"input_ids": tokens, "use_cache": past is not None}
        if input_pos is not None and self._takes_positions:
            given["position_ids"] = input_pos
        if past is not None:
            given |= {"past_key_values": past.cache, "attention_mask": past.seen}
        with each_document(mask if isinstance(mask, Documents) else None, len(self.layers)):
            found = self.net.base_model(**given)
        if past is not None:
            past.cache = found.past_key_values
        hidden: Tensor = found.last_hidden_state
        return hidden if self.scale == 1.0 else hidden * self.scale

    loss = loss_of_batch
    key_values = PastTokens

    def next_logits(self, tokens: Tensor, *, mask: Any = None, input_pos: Tensor | None = None) -> Tensor:
        """Logits of the last position, fp32 `[B, V]`."""
        return self.output(self.forward(tokens, mask=mask, input_pos=input_pos)[:, -1:]).float().squeeze(1)

    def document_mask(self, lengths: Sequence[int], device: torch.device) -> Documents:
        """The mask of a packed batch, one kernel per document on every device.

        Raises:
            UserError: layers that would leak one document into the next.
        """
        if not self._packs:
            check_packs(self.net)
            self._packs = True
        return Documents(tuple(lengths))


def layer_stack(net: Any) -> str:
    """The name of the module list that holds the layers.

    Raises:
        UserError: there is not exactly one.
    """
    kinds, names = net._no_split_modules or (), []
    for name, module in net.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and all(type(layer).__name__ in kinds for layer in module):
            names.append(name)
    if len(names) != 1:
        raise UserError(f"{type(net).__name__} has no stack of layers that can be sharded one by one")
    return names[0]


def check_packs(net: Any) -> None:
    """Raises UserError for a model in which packed rows would see each other, or positions would not restart."""
    settings = net.config
    others = sorted({*(getattr(settings, "layer_types", None) or ())} - _ATTENDS)
    takes = inspect.signature(net.base_model.forward).parameters
    convolves = any(isinstance(module, nn.Conv1d) for module in net.modules())
    if others or net._is_stateful or convolves or settings._attn_implementation != NAME or "position_ids" not in takes:
        why = f"has layers of kind {', '.join(others)}" if others else "has layers that are not our attention"
        raise UserError(
            f"packed_tokens: {type(net).__name__} {why}, in which packed rows would see each other; set "
            "packed_tokens=null"
        )
