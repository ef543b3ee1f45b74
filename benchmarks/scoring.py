"""Scoring every token of a data set against just the forward pass of the same model, on the same padded batches.

Ours does everything: gather and pad rows, forward, losses of the supervised tokens, back to tokens, to disk, as Parquet
too. The peer is `model(tokens)`, including the logits of every position, on prepared batches. With adapters, ours
scores the model with adapters off and on in one pass over the data, and the peer runs both forward passes. Scores are
first checked against whole logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import seconds
from benchmarks.report import Row
from cot_components.clock import Clock
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.score_pass import Column, score_rows, similar_lengths
from cot_components.data.rows.scores import scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.losses.measures import MEASURES
from cot_components.models.adapter import adapt, logits
from cot_components.models.lora_layers import adapters_off
from cot_components.models.score import Asked, model_scores
from cot_components.roles import Role

GATE = 0.9
ROWS, LONGEST, PROMPT_SHARE = 8, 256, 0.3
MAX_TOKENS = 1024
SHAPE = {"num_layers": 2, "num_heads": 16, "num_kv_heads": 8, "embed_dim": 1024, "intermediate_dim": 2048}
TINY_SHAPE = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 32, "intermediate_dim": 64}
SHAPES = {"cpu": SHAPE, "cuda": SHAPE, "tiny": TINY_SHAPE}
VOCABULARY = 8192
PEER = "forward alone"


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Tokens per second, padding not counted."""
    data = some_rows()
    with tempfile.TemporaryDirectory() as folder:
        for case, model, columns in cases(device, SHAPES[size]):
            ours, peer = workers(model, columns, data, Path(folder) / case.replace(" ", "_"))
            check_equal(model, columns, data)
            taken = seconds({"ours": ours, "peer": peer}, device)
            speeds = [len(data.tokens) / taken[name] for name in ("ours", "peer")]
            yield Row(case, PEER, "t/s", *speeds, GATE, at_most=False)


def cases(device: str, shape: dict[str, int]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, model, and the columns to score."""
    from torchtune.models.llama3_2 import llama3_2, lora_llama3_2

    torch.manual_seed(0)
    size = {"vocab_size": VOCABULARY, "max_seq_len": LONGEST, **shape}
    with torch.device(device):
        model = adapt(llama3_2(**size))
        yield "one model", model, {"original": Asked("m")}
        yield "all measures", model, {name: Asked("m", name) for name in MEASURES}
        lora = adapt(lora_llama3_2(lora_attn_modules=["q_proj", "v_proj"], lora_rank=8, lora_alpha=16, **size))
    for module in lora.modules():
        if hasattr(module, "lora_b"):
            torch.nn.init.normal_(module.lora_b.weight, std=0.02)  # as if it had learned
    yield "adapters off and on", lora, {"original": Asked("m", view=adapters_off), "shuffled": Asked("m")}


def some_rows() -> Rows:
    """Random tokens in rows of varying length; the last seven in ten of each row are supervised."""
    random = np.random.default_rng(0)
    lengths = random.integers(LONGEST // 4, LONGEST, ROWS)
    row_start = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(row_start[-1]) - np.repeat(row_start[:-1], lengths)
    prompt = place < PROMPT_SHARE * np.repeat(lengths, lengths)
    return Rows(
        tokens=random.integers(1, VOCABULARY, row_start[-1]).astype(np.int32),
        roles=np.where(prompt, Role.PROMPT, Role.ANSWER).astype(np.uint8),
        counters=np.full(row_start[-1], -1, dtype=np.int32),
        weights=np.ones(row_start[-1], dtype=np.float32),
        row_start=row_start,
        ids=np.arange(ROWS),
    )


def workers(
    model: Any, columns: dict[str, Any], data: Rows, folder: Path
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Ours, which writes to a new folder at every call, and the peer."""
    score, calls = model_scores(model, columns, pad_id=0), iter(range(10**6))
    device = next(model.parameters()).device
    batches = Batches(data, {}, 0)
    groups = similar_lengths(data.lengths, MAX_TOKENS)
    views = {asked.view for asked in columns.values()}
    ready = [batches.batch(indices, Clock(0, 0)).tokens.to(device) for indices in groups]

    def ours() -> None:
        names = {name: Column(asked.model, asked.measure) for name, asked in columns.items()}
        score_rows(data, score, folder / str(next(calls)), columns=names, tokenizer="", max_tokens=MAX_TOKENS)

    @torch.inference_mode()
    def peer() -> None:
        for tokens in ready:
            for view in views:
                with view(model):
                    model.output(model(tokens))

    return ours, peer


def check_equal(model: Any, columns: dict[str, Any], data: Rows) -> None:
    """Check that ours equals what whole logits give, token by token."""
    flat = data.flat([0, 1])
    device = next(model.parameters()).device
    found = model_scores(model, columns, pad_id=0)(flat)
    where = scored_tokens(flat)
    for name, (_, measure, view) in columns.items():
        with view(model):
            for row in range(2):
                here = slice(flat.row_start[row], flat.row_start[row + 1])
                tokens = torch.from_numpy(flat.tokens[here]).to(device)[None]
                spread = torch.distributions.Categorical(logits=logits(model, tokens)[0, :-1])
                values = np.concatenate([[0], slow(measure, spread, tokens[0, 1:]).cpu().numpy()])[where[here]]
                near = 1 if measure == "rank" else 2e-4  # two logits may differ only by rounding
                np.testing.assert_allclose(found[name][here][where[here]], values, rtol=2e-4, atol=near)


def slow(measure: str, spread: torch.distributions.Categorical, labels: torch.Tensor) -> torch.Tensor:
    """A measure of tokens `[T]` under distributions over the vocabulary."""
    if measure == "entropy":
        return spread.entropy()
    if measure == "top_probability":
        return spread.probs.amax(-1)
    given = spread.log_prob(labels)
    return (spread.logits > given[:, None]).sum(-1) + 1 if measure == "rank" else -given
