"""The scoring benchmark: both sides agree, and a difference would be noticed."""

import numpy as np
import pytest

from benchmarks import scoring


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "ROWS", 6)
    monkeypatch.setattr(scoring, "LONGEST", 40)
    monkeypatch.setattr(scoring, "VOCABULARY", 60)
    monkeypatch.setattr(scoring, "MAX_TOKENS", 90)
    monkeypatch.setattr(
        scoring,
        "SHAPE",
        {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 16, "intermediate_dim": 24},
    )


def test_rows_carry_both_cases() -> None:
    measured = list(scoring.rows("cpu"))
    assert [row.case for row in measured] == ["one model", "all measures", "adapters off and on"]
    assert all(row.ours > 0 and row.peer > 0 and row.gate == 0.9 and not row.at_most for row in measured)


def test_a_difference_is_noticed(monkeypatch) -> None:
    _, (_, model, columns), *_ = scoring.cases("cpu")
    data = scoring.some_rows()
    scoring.check_equal(model, columns, data)
    right = scoring.model_scores

    def shifted(*args, **settings):
        score = right(*args, **settings)
        return lambda flat: {name: np.roll(values, 1) for name, values in score(flat).items()}

    monkeypatch.setattr(scoring, "model_scores", shifted)
    with pytest.raises(AssertionError):
        scoring.check_equal(model, columns, data)
