"""Run by torchrun: bytes of weights, gradients and moments that this process holds after a step."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from rows import random_rows
from tiny_models import VOCABULARY, build

from cot_components.data.rows.batches import pack
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.training import distributed


def held(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.numel() * local.element_size()


def main() -> None:
    world = distributed.start(torch.device("cpu"))
    model = adapt(build("llama_untied"))
    distributed.shard(model, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    flat = random_rows(4, vocabulary=VOCABULARY).flat(range(4))
    model.loss(sft().fused, pack(flat, pad_id=0, num_tokens=len(flat.tokens))).objective.backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    gradients = [weight.grad for weight in model.parameters()]
    if world.is_first:
        print(sum(held(tensor) for tensor in [*model.parameters(), *gradients, *moments]), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort while the interpreter winds down


if __name__ == "__main__":
    main()
