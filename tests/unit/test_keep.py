"""What is committed of a discriminator's run reads like the run's own folder."""

import numpy as np
import pytest
from rows import random_rows

from cot_components.clock import Clock
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.errors import UserError
from cot_components.transforms import Highlight
from experiments.keep import keep_scores


def test_the_first_rows_are_found_again_and_no_others(tmp_path):
    flat = random_rows(20).flat(range(20))
    columns = {name: getattr(flat, name).astype(kind) for name, kind in PER_TOKEN.items()}
    rows = Rows(**columns, row_start=flat.row_start, ids=flat.ids)
    chance = np.random.default_rng(0)

    def score(batch):
        return {name: chance.random(len(batch.tokens), dtype=np.float32) for name in ("original", "shuffled")}

    score_rows(rows, score, tmp_path / "all", columns={"original": Column("a"), "shuffled": Column("b")}, tokenizer="t")
    keep_scores(tmp_path / "all", tmp_path / "kept", num_rows=6)
    first = rows.flat(range(6))
    found, wanted = (Highlight(scores=str(tmp_path / name))(first, Clock(0, 0)).groups for name in ("kept", "all"))
    assert np.array_equal(found, wanted) and 0 < found.sum() < len(found)
    with pytest.raises(UserError, match="has no scores"):
        Highlight(scores=str(tmp_path / "kept"))(rows.flat([6]), Clock(0, 0))
