"""The step benchmark of stepwise internalisation: both sides agree, and a difference would be noticed."""

import pytest

from benchmarks import icot
from cot_components.models.adapter import adapt
from cot_components.models.families.gpt2 import gpt2


def test_rows_carry_the_time_of_both() -> None:
    (row,) = icot.rows("cpu", "tiny")
    assert row.ours > 0 and row.peer > 0 and row.gate == icot.GATE["cpu"]


def test_a_difference_is_noticed() -> None:
    model = adapt(gpt2(vocab_size=300, num_layers=1, num_heads=4, embed_dim=16, max_seq_len=64, dropout=0.0))
    ours, theirs = icot.steps(model, icot.transformers_model(model), icot.TINY, "cpu")
    icot.check_equal(ours(update=False), theirs(update=False))
    ours()
    with pytest.raises(AssertionError):
        icot.check_equal(ours(update=False), theirs(update=False) * 1.01)
