"""What a model makes of a token, against whole distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical

from cot_components.losses import measures, sft
from cot_components.losses.measures import MEASURES, measure


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("chunk", [3, 256])
def test_measures_are_those_of_the_whole_distribution(monkeypatch, lora: bool, chunk: int) -> None:
    monkeypatch.setattr(measures, "CPU_CHUNK_ROWS", chunk)
    torch.manual_seed(0)
    hidden, weight, low = torch.randn(11, 8), torch.randn(50, 8), torch.randn(50, 2)
    labels, rows = torch.randint(50, (11,)), torch.tensor([0, 2, 3, 5, 6, 9, 10])
    head = (lambda x: [(x, weight), (x[:, :2], low)]) if lora else weight
    logits = (hidden @ weight.T + (hidden[:, :2] @ low.T if lora else 0))[rows]
    found = measure(hidden, head, labels, rows=rows)
    spread, given = Categorical(logits=logits), labels[rows]
    order = logits.argsort(-1, descending=True)
    wanted = {
        "nll": -spread.log_prob(given),
        "entropy": spread.entropy(),
        "rank": (order == given[:, None]).nonzero()[:, 1] + 1.0,
        "top_probability": spread.probs.amax(-1),
    }
    assert wanted.keys() == MEASURES.keys() == found.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, msg=name)
        assert torch.equal(measure(hidden, head, labels, rows=rows, wanted=(name,))[name], found[name])
    assert torch.equal(found["nll"], sft(chunk_rows=chunk).fused(hidden, head, labels, rows=rows).nll)


def test_no_rows_measure_nothing() -> None:
    found = measure(
        torch.randn(2, 4), torch.randn(9, 4), torch.zeros(2, dtype=torch.int64), rows=torch.tensor([]).long()
    )
    assert all(len(values) == 0 for values in found.values())
