"""Run by torchrun: whether bf16 updates of sharded weights are those of whole ones, bit for bit, for each optimizer."""

from __future__ import annotations

import copy
import os

import torch
import torch.distributed as dist
from models_for_tests import build
from torch.distributed.tensor import distribute_tensor

from cot_components.models.adapter import adapt
from cot_components.training import distributed
from cot_components.training.precision import STATES, Precision, with_exact_updates


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def main() -> None:
    world = distributed.start(torch.device("cpu"))
    torch.manual_seed(0)
    for state in STATES:
        one = adapt(build("llama_untied")).bfloat16()
        two = copy.deepcopy(one)
        distributed.shard(two, world)
        made = []
        for model in (one, two):
            inner = torch.optim.AdamW(model.parameters(), lr=1e-4)
            made.append(with_exact_updates(inner, model, Precision("bf16", state, seed=3)))
        for _ in range(3):
            for p, q in zip(one.parameters(), two.parameters(), strict=True):
                p.grad = torch.randn_like(p)
                q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
            for optimizer in made:
                optimizer.step()
        same = True
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            kept, sharded = made[0].state[p], made[1].state[q]
            pairs = [(p, q), *((kept[key], sharded[key]) for key in kept)]
            equal = [torch.equal(a, whole(b)) for a, b in pairs]
            same = same and kept.keys() == sharded.keys() and all(equal)
        if world.is_first:
            print(state, same, flush=True)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort while the interpreter winds down


if __name__ == "__main__":
    main()
