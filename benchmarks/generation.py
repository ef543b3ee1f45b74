"""Greedy answers of a real model, batched: our `generate` against that of `transformers`, the same prompts and weights.

Answers are compared in fp32, where both must agree; times are measured in the device's own number format.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.measure import seconds
from benchmarks.models import model_folder
from benchmarks.report import Row
from cot_components.config import COMPONENT
from cot_components.models.generate import generate
from cot_components.models.load import load_model

PEER = "transformers' generate"
EQUAL = 0.95
"""Share of answers that must be equal: where two tokens are equally likely, the last bit decides."""


class Case(NamedTuple):
    prompts: int
    longest_prompt: int
    new_tokens: int
    dtype: torch.dtype


CASES = {
    "cpu": Case(8, 64, 32, torch.float32),
    "cuda": Case(64, 128, 128, torch.bfloat16),
    "tiny": Case(3, 8, 4, torch.float32),
}


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    case = CASES[size]
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(size, Path(scratch))
        ours, theirs = workers(folder, case, device, torch.float32)
        equal = sum(a == b for a, b in zip(ours(), theirs(), strict=True)) / case.prompts
        yield Row("answers that are the same, fp32", PEER, "", equal, 1.0, EQUAL, at_most=False)
        ours, theirs = workers(folder, case, device, case.dtype)
        taken = seconds({"ours": ours, "peer": theirs}, device)
    speeds = (case.prompts * case.new_tokens / taken[name] for name in ("ours", "peer"))
    name = f"{case.prompts} answers of {case.new_tokens} tokens, {str(case.dtype)[6:]}"
    yield Row(name, PEER, "t/s", *speeds, 1.0, at_most=False)


def workers(
    folder: Path, case: Case, device: str, dtype: torch.dtype
) -> tuple[Callable[[], list[list[int]]], Callable[[], list[list[int]]]]:
    """Ours and the peer; each returns `new_tokens` ids per prompt, whatever they are: no token stops an answer."""
    from transformers import AutoModelForCausalLM

    node = {COMPONENT: "cot_components.models.from_folder", "path": str(folder)}
    model = load_model(node, device=torch.device(device), dtype=dtype)
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    random = np.random.default_rng(0)
    lengths = random.integers(case.longest_prompt // 2, case.longest_prompt + 1, case.prompts)
    prompts = [random.integers(3, model.tok_embeddings.num_embeddings, length).tolist() for length in lengths]
    longest = max(lengths)
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    settings: dict[str, Any] = {"max_new_tokens": case.new_tokens, "min_new_tokens": case.new_tokens}
    peer.generation_config.eos_token_id = None

    def ours() -> list[list[int]]:
        return generate(model, prompts, max_new_tokens=case.new_tokens, stop_ids=(), pad_id=0, batch_size=case.prompts)

    def theirs() -> list[list[int]]:
        out = peer.generate(padded, attention_mask=seen, do_sample=False, pad_token_id=0, **settings)
        return out[:, longest:].tolist()

    return ours, theirs
