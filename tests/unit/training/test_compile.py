"""Compiled layers: once for a packed run whatever its documents, once more at most when rows change their length."""

import numpy as np
import pytest
import torch
from models_for_tests import VOCABULARY, build
from rows import random_rows
from torch._dynamo.utils import counters

from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.training.distributed import World
from cot_components.training.setup import prepare_model

ROWS = random_rows(60, vocabulary=VOCABULARY)
LENGTHS = np.array([len(row.tokens) for row in ROWS.rows])


@pytest.fixture(autouse=True)
def _graphs_without_kernels(monkeypatch):
    """What is counted are graphs; making machine code of them would take minutes."""
    monkeypatch.setenv("TORCH_COMPILE_BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("packed_tokens", [128, None])
def test_nothing_is_compiled_after_warm_up(packed_tokens):
    model, reference = adapt(build("llama_tied")), adapt(build("llama_tied"))
    prepare_model(model, World(), compile=True, enable_activation_checkpointing=False)
    plans = Plans(LENGTHS, batch_size=4, packed_tokens=packed_tokens, seed=1)
    batches = [batch for plan in plans for batch in Batches(ROWS, {}, 0, packed_tokens=packed_tokens)[plan][1]]
    graphs, widths = [], {batch.tokens.shape[1] for batch in batches}
    for batch in batches:
        out = model.loss(sft().fused, batch)
        out.objective.backward()
        with torch.no_grad():
            assert torch.allclose(out.nll, reference.loss(sft().fused, batch).nll, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(graphs) > 8 and graphs[0] > 0
    if packed_tokens is None:
        # The second length makes lengths a variable, once for the last layer and once for all others.
        assert len(widths) > 4 and graphs[-1] == graphs[1] <= 2 * graphs[0]
    else:
        assert len({batch.documents for batch in batches}) > 8 and graphs[-1] == graphs[0]


def test_the_row_function_is_compiled_once():
    """All chunks of a step but the last have the same shape; the last of every step has another."""
    loss = sft(compile_rows=True, chunk_rows=16)
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(VOCABULARY, 8, generator=generator)
    graphs = []
    for size in (40, 43, 61, 50, 37):
        hidden = torch.randn(size, 8, generator=generator, requires_grad=True)
        labels = torch.randint(0, VOCABULARY, (size,), generator=generator)
        loss.fused(hidden, head, labels).objective.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[-1] == graphs[1]
