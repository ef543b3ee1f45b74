"""What is kept of runs, in place of their weights: records, scores of the first rows, evaluations."""

import numpy as np
import pytest
from rows import random_store

from cot_components.clock import Clock
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.errors import UserError
from cot_components.transforms import Highlight
from experiments.keep import keep_answers, keep_scores


def test_the_first_rows_are_found_again_and_no_others(tmp_path):
    rows = random_store(20)
    chance = np.random.default_rng(0)

    def score(batch):
        return {name: chance.random(len(batch.tokens), dtype=np.float32) for name in ("original", "shuffled")}

    score_rows(rows, score, tmp_path / "all", columns={"original": Column("a"), "shuffled": Column("b")}, tokenizer="t")
    keep_scores(tmp_path / "all", tmp_path / "kept", num_rows=6)
    first = rows.flat(range(6))
    found, wanted = (Highlight(scores=str(tmp_path / name))(first, Clock(0, 0)).groups for name in ("kept", "all"))
    assert np.array_equal(found, wanted) and 0 < found.sum() < len(found)
    with pytest.raises(UserError, match="no scores"):
        Highlight(scores=str(tmp_path / "kept"))(rows.flat([6]), Clock(0, 0))


def test_of_a_pretrained_run_its_first_and_last_evaluation_are_kept_and_no_weights(tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    for folder in ("evaluations", "model"):
        (run / folder).mkdir(parents=True)
    (run / "model" / "model.safetensors").touch()
    kept.mkdir()
    for step in (0, 20, 39):
        (run / "evaluations" / f"step_{step}.json").write_text(str(step))
    keep_answers(run, kept)
    assert {path.name for path in kept.rglob("*.*")} == {"step_0.json", "step_39.json"}
