"""What is committed of a discriminator's run reads like the run's own folder."""

import numpy as np
import pytest
from rows import random_store

from cot_components.clock import Clock
from cot_components.data.rows.scores import score_rows
from cot_components.errors import UserError
from cot_components.transforms import Highlight
from experiments.keep import keep_scores


def test_the_first_rows_are_found_again_and_no_others(tmp_path):
    rows = random_store(20)
    chance = np.random.default_rng(0)

    def score(batch):
        return {name: chance.random(len(batch.tokens), dtype=np.float32) for name in ("original", "shuffled")}

    score_rows(rows, score, tmp_path / "all", columns={"original": "a", "shuffled": "b"}, tokenizer="t")
    keep_scores(tmp_path / "all", tmp_path / "kept", num_rows=6)
    first = rows.flat(range(6))
    found, wanted = (Highlight(scores=str(tmp_path / name))(first, Clock(0, 0)).groups for name in ("kept", "all"))
    assert np.array_equal(found, wanted) and 0 < found.sum() < len(found)
    with pytest.raises(UserError, match="no scores"):
        Highlight(scores=str(tmp_path / "kept"))(rows.flat([6]), Clock(0, 0))
