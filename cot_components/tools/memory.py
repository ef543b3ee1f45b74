"""Estimates a run's memory per GPU, to find out which sizes fit before renting anything.

`cot memory` prints the table of docs/scaling.md. `states` is exact (a test compares it with the shards of two
processes); the other parts are what this code allocates at its peak, counted tensor by tensor, without the allocator's
fragmentation and CUDA's own memory (about 1 to 2 GiB).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from cot_components.trainable import Only, Trainable, weights_of
from cot_components.training.exact_updates import AT_ONCE

GIB = 2.0**30
GPUS, SPARE = (24, 40, 80), 2
"""GPU sizes in GB, and how much of that CUDA and the allocator take."""
_STATES = {"bf16": (8, 16), "fp32_moments": (12, 8), "fp32_weights": (16, 4)}
"""By `optimizer_state`: bytes per learning weight between updates, and in copies during an update."""


class Memory(NamedTuple):
    """Bytes per GPU at the peak of a step.

    states:      shards of weights, gradients and AdamW's two moments
    gathered:    unsharded weights of two layers (one computing, one being fetched), unsharded gradients of one, and the
                 root's: embedding, head, norm
    activations: kept by the layers for the backward
    loss:        of the fused loss: fp32 sum of the head's gradient, its rounded copy, hidden gradients, a chunk of
                 logits
    update:      fp32 copies of the largest weight with its gradient and moments; activations are gone by then
    """

    states: int
    gathered: int
    activations: int
    loss: int
    update: int

    @property
    def total(self) -> int:
        """Bytes at the peak of a step, which is in its backward or its update."""
        return self.states + max(self.gathered + self.activations + self.loss, self.update)

    @property
    def smallest_gpu(self) -> int | None:
        """GB of the smallest GPU in `GPUS` on which it fits; None if it fits on none."""
        return next((size for size in GPUS if self.total <= (size - SPARE) * GIB), None)


def memory_per_gpu(
    model: Any,
    *,
    world_size: int,
    tokens: int,
    checkpoint_activations: bool,
    bytes_per_number: int = 2,
    optimizer_state: str = "bf16",
    chunk_rows: int = 2048,
) -> Memory:
    """Memory of fine-tuning with AdamW, sharded layer by layer.

    Resting weights (see `cot_components.trainable`) have neither gradients nor moments; the savings of layers that then
    keep fewer inputs for their backward are not counted. Moments kept for resting weights come on top.

    Args:
        model: a torchtune Llama or Qwen decoder, on any device (`meta` costs nothing); weights with `requires_grad`
            learn.
        world_size: number of GPUs; with 1 nothing is sharded or gathered.
        tokens: of a micro-batch on one GPU.
        checkpoint_activations: whether each layer is recomputed in the backward.
        bytes_per_number: of weights, gradients and activations: 2 for bf16, 4 for fp32, where moments are fp32 as well.
        optimizer_state: what bf16 weights additionally keep in fp32, see `training.precision`.
        chunk_rows: of the loss.
    """
    size, layers = bytes_per_number, [_numel(layer.parameters()) for layer in model.layers]
    learning = [_numel(_learning(layer.parameters())) for layer in model.layers]
    root = _numel(model.parameters()) - sum(layers) + _numel(_learning(model.parameters())) - sum(learning)
    shards = [_share(weight, world_size) for weight in model.parameters()]
    updated = [_share(weight, world_size) for weight in _learning(model.parameters())]
    kept_bytes, copied = _STATES[optimizer_state] if size == 2 else (16, 0)
    gathered = (2 * max(layers) + max(learning) + root) * size if world_size > 1 else 0
    vocab_size, width = model.tok_embeddings.weight.shape
    per_token = _kept_per_token(model.layers[0])
    layers_keep = [per_token] + [width] * len(layers) if checkpoint_activations else [per_token] * len(layers)
    head = (4 + size) * vocab_size * width * _head(model).requires_grad
    loss = head + tokens * width * (4 + 2 * size) + chunk_rows * vocab_size * (4 + size)
    activations, update = tokens * sum(layers_keep) * size, copied * max(*updated, AT_ONCE)
    states = size * sum(shards) + (kept_bytes - size) * sum(updated)
    return Memory(states, gathered, activations, loss, update)


def _kept_per_token(layer: Any) -> int:
    """Numbers per token that one layer keeps for its backward: the inputs of its norms and projections, queries, keys
    (repeated for each head), values, the attention's output, and four of the feed-forward's width.
    """
    attention = layer.attn
    width, heads = layer.sa_norm.scale.shape[0], attention.num_heads * attention.head_dim
    return 4 * width + 4 * heads + 4 * layer.mlp.w1.out_features


def _learning(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [weight for weight in weights if weight.requires_grad]


def _share(weight: nn.Parameter, world_size: int) -> int:
    return -(-weight.shape[0] // world_size) * weight[0].numel()


def _head(model: Any) -> nn.Parameter:
    return getattr(model.output, "tied_module", model.output).weight


def _numel(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in weights)


def sizes(trainable: Trainable | None = None) -> dict[str, Any]:
    """Llama models of the table, on the meta device; the weights `trainable` chooses for its first round learn, or
    all."""
    chosen = Only() if trainable is None else trainable
    from torchtune.models.llama3_1 import llama3_1_8b, llama3_1_70b
    from torchtune.models.llama3_2 import llama3_2_1b, llama3_2_3b

    builders = {"1B": llama3_2_1b, "3B": llama3_2_3b, "8B": llama3_1_8b, "70B": llama3_1_70b}
    with torch.device("meta"):
        models = {name: build() for name, build in builders.items()}
    for model in models.values():
        names = chosen.choose(weights_of(model), 0)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in names)
    return models


def table(models: dict[str, Any], *, tokens: int = 16_384, optimizer_state: str = "bf16") -> str:
    """GiB per GPU for 1, 8 and 64 GPUs, with and without activation checkpointing, and the smallest GPU on which it
    fits, in Markdown.
    """
    activations = "activations, kept | total | GPU | activations, checkpointed | total | GPU"
    lines = [f"| model | GPUs | states | update | gathered | loss | {activations} |"]
    lines.append("|---" * 12 + "|")
    for name, model in models.items():
        for world_size in (1, 8, 64):
            kept, again = (
                memory_per_gpu(
                    model,
                    world_size=world_size,
                    tokens=tokens,
                    checkpoint_activations=on,
                    optimizer_state=optimizer_state,
                )
                for on in (False, True)
            )
            parts = [kept.states, kept.update, kept.gathered, kept.loss]
            cells = [f"{part / GIB:.1f}" for part in parts]
            for memory in (kept, again):
                gpu = f"{memory.smallest_gpu} GB" if memory.smallest_gpu else "none"
                cells += [f"{memory.activations / GIB:.1f}", f"{memory.total / GIB:.1f}", gpu]
            lines.append(f"| {name} | {world_size} | {' | '.join(cells)} |")
    return "\n".join(lines)
