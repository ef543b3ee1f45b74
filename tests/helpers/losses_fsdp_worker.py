"""Run under torchrun by `test_losses_two_processes.py`: for each case named, the largest relative gradient difference.

Not a test module: rank 0 holds the whole batch's gradient on one process against the sharded model's on two.
"""

from __future__ import annotations

import copy
import os
import sys
import types

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from cot_components import losses
from cot_components.losses import Pairs, supervised_rows

WORLD, ROWS, TOKENS, D, V = 2, 4, 12, 16, 32


class Model(nn.Module):
    """Embedding, two layers, head; `loss` runs inside the root's forward, as the adapter's does."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(D, D), nn.Tanh()) for _ in range(2))
        if head != "tied":
            self.output = nn.Linear(D, V, bias=False)
        if head == "lora":
            self.output.weight.requires_grad_(False)
            self.down, self.up = nn.Linear(D, 3, bias=False), nn.Linear(3, V, bias=False)
        self.kind = head
        self.loss = types.MethodType(_loss, self)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens).cumsum(1) / 5
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return hidden

    def head(self) -> Tensor | object:
        if self.kind == "lora":
            return self.lora_pairs
        return self.embedding.weight if self.kind == "tied" else self.output.weight

    def lora_pairs(self, hidden: Tensor) -> Pairs:
        return [(hidden, self.output.weight), (self.down(hidden), self.up.weight)]


def _loss(
    model: Model, loss: losses.Loss, tokens: Tensor, labels: Tensor, weights: Tensor, other: Tensor | None
) -> Tensor:
    hidden = model.forward(tokens).flatten(0, 1)
    reference = None if other is None else (hidden.detach().flip(1), other)
    rows = supervised_rows(labels.flatten(), weights.flatten())
    out = loss.fused(hidden, model.head(), labels.flatten(), weights.flatten(), rows=rows, reference=reference)
    return out.objective


def batches(case: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """One micro-batch `(tokens, labels, weights)` per rank, or two; rank 1 is without supervised tokens if `empty`."""
    torch.manual_seed(1)
    made = []
    for i in range(2 * WORLD if "accumulate" in case else WORLD):
        tokens, weights = torch.randint(0, V, (ROWS, TOKENS)), torch.rand(ROWS, TOKENS) + 0.1
        labels = tokens.roll(-1, 1)
        labels[:, -1] = -100
        labels[torch.rand(ROWS, TOKENS) < 0.4] = -100
        if "empty" in case and i % WORLD == 1:
            labels[:] = -100
        made.append((tokens, labels, weights))
    return made


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            grad = parameter.grad
            assert grad is not None, name
            found[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return found


def difference(case: str, rank: int) -> float:
    torch.manual_seed(0)
    model = Model(case.split()[0])
    alone = copy.deepcopy(model)
    other = torch.randn(V, D) if "reference" in case else None
    loss = losses.asft(kl_weight=0.5, chunk_rows=7) if other is not None else losses.dft(chunk_rows=7)
    made = batches(case)
    count = sum(int((labels != -100).sum()) for _, labels, _ in made)
    for batch in made:
        (alone.loss(loss, *batch, other) / count).backward()

    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    register_fsdp_forward_method(model, "loss")
    own = made[rank::WORLD]
    for i, batch in enumerate(own):
        model.set_requires_gradient_sync(i == len(own) - 1)
        (model.loss(loss, *batch, other) * (WORLD / count)).backward()
    expected, found = gradients(alone), gradients(model)
    assert set(expected) == set(found) and any(float(grad.abs().max()) > 0 for grad in expected.values())
    largest = max(float(grad.abs().max()) for grad in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / largest


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for case in sys.argv[1:]:
        worst = difference(case, rank)
        if rank == 0:
            print(f"{case}: {worst:.2e}", flush=True)
    dist.barrier()  # a process that leaves while another still talks to it takes it down
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort while the interpreter winds down; everything is said by now


if __name__ == "__main__":
    main()
