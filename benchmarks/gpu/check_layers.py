"""A model's loss and gradients the ways a GPU computes them: packed (FlexAttention), compiled, both; fp32 and bf16.

The measure is the same model in float64 on a CPU, row by row. In fp32 the error is bounded; in bf16 it may exceed that
of plain padded rows in bf16 by half.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Row
from benchmarks.step_peers import Work, encoded
from cot_components.data.rows.batches import Batch, pack, pad
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.training.distributed import World
from cot_components.training.setup import prepare_model

SHAPES: dict[str, dict[str, Any]] = {
    "cuda": {
        "vocab_size": 4096,
        "num_layers": 4,
        "num_heads": 8,
        "num_kv_heads": 4,
        "embed_dim": 512,
        "intermediate_dim": 1024,
        "max_seq_len": 1024,
    },
    "tiny": {
        "vocab_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "embed_dim": 32,
        "intermediate_dim": 64,
        "max_seq_len": 64,
    },
}
LENGTHS = {"cuda": (700, 1, 255, 31, 512, 129, 400), "tiny": (20, 1, 9, 30)}
ALLOWED_FP32 = 1e-4
WAYS = {"padded": (False, False), "packed": (True, False), "compiled": (False, True), "packed, compiled": (True, True)}
"""Name to packed, compiled; the first is what the others are measured by in bf16."""


def rows(device: str, size: str) -> Iterator[Row]:
    work = make_work(device, size)
    model, padded, packed = adapt(work.model()), *batches(work)
    exact = gradients(copy.deepcopy(model).cpu().double(), padded)
    for dtype in (torch.float32, torch.bfloat16):
        plain = ALLOWED_FP32
        for name, (is_packed, is_compiled) in WAYS.items():
            one = copy.deepcopy(model).to(dtype)
            prepare_model(one, World(), compile=is_compiled, enable_activation_checkpointing=False)
            found = error(gradients(one, (packed if is_packed else padded).to(torch.device(device))), exact)
            if dtype == torch.float32:
                yield Row(f"gradients, {name}, fp32", "float64: what is allowed", "", found, ALLOWED_FP32, 1.0)
            elif name == "padded":
                plain = found
            else:
                yield Row(f"gradients, {name}, bf16", "padded, bf16", "", found, plain, 1.5)
        yield isolation(copy.deepcopy(model).to(dtype), packed.to(torch.device(device)), str(dtype)[6:])


def make_work(device: str, size: str) -> Work:
    random, shape = np.random.default_rng(0), SHAPES[size]
    made = [(random.integers(1, shape["vocab_size"], length).tolist(), length // 5) for length in LENGTHS[size]]
    return Work(shape, made, len(made), device)


def batches(work: Work) -> tuple[Batch, Batch]:
    """All rows in one batch, padded and packed."""
    flat = encoded(work).flat(range(len(work.rows)))
    return pad(flat, pad_id=0), pack(flat, pad_id=0, num_tokens=len(flat.tokens) + 7)


def gradients(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Of the mean loss, by name of the weight; and the loss itself."""
    out = model.loss(sft().fused, batch)
    value = out.objective / batch.num_supervised
    value.backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return {"loss": value.detach(), **{name.replace("_orig_mod.", ""): grad for name, grad in found.items()}}


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The difference over the whole model, by the norm of what is exact; of the loss if that is further off."""
    apart = {name: found[name].cpu().double() - value.cpu() for name, value in exact.items()}
    loss = float(apart.pop("loss").abs() / exact["loss"].abs())
    whole = sum(float(exact[name].norm()) ** 2 for name in apart)
    return max(loss, (sum(float(one.norm()) ** 2 for one in apart.values()) / whole) ** 0.5)


@torch.no_grad()
def isolation(model: Any, packed: Batch, dtype: str) -> Row:
    """Share of the losses of all other documents that stay bit for bit when one document changes."""
    changed = replace(packed, tokens=packed.tokens.clone())
    here = packed.sample[0] == 2
    changed.tokens[0, here] = changed.tokens[0, here] % 7 + 1
    before, after = (
        model.loss(sft().fused, batch, labels=packed.labels, rows=packed.rows).nll for batch in (packed, changed)
    )
    elsewhere = packed.sample.flatten()[packed.rows] != 2
    assert not torch.equal(before[~elsewhere], after[~elsewhere])
    same = float((before == after)[elsewhere].float().mean())
    case = f"losses of other documents, unchanged, {dtype}"
    return Row(case, "bit for bit", "", same, 1.0, 1.0, at_most=False)
