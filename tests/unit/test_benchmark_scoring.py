"""The scoring benchmark: both sides agree, and a difference would be noticed."""

import numpy as np
import pytest

from benchmarks import scoring


def test_rows_carry_both_cases() -> None:
    measured = list(scoring.rows("cpu", "tiny"))
    assert [row.case for row in measured] == ["one model", "all measures", "adapters off and on"]
    assert all(row.ours > 0 and row.peer > 0 and row.gate == 0.9 and not row.at_most for row in measured)


def test_a_difference_is_noticed(monkeypatch) -> None:
    _, (_, model, columns), *_ = scoring.cases("cpu", scoring.TINY_SHAPE)
    data = scoring.some_rows()
    scoring.check_equal(model, columns, data)
    right = scoring.model_scores

    def shifted(*args, **settings):
        score = right(*args, **settings)
        return lambda flat: {name: np.roll(values, 1) for name, values in score(flat).items()}

    monkeypatch.setattr(scoring, "model_scores", shifted)
    with pytest.raises(AssertionError):
        scoring.check_equal(model, columns, data)
