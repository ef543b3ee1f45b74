"""What is kept of runs, in place of their weights: records, scores of the first rows, answers, losses of tokens."""

import json

import numpy as np
import pytest
import torch
from rows import random_store

from cot_components.clock import Clock
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.errors import UserError
from cot_components.models import adapt, from_folder, logits, write_tiny_checkpoint
from cot_components.transforms import Highlight
from experiments.keep import READ_ROWS, keep_answers, keep_scores, keep_token_losses


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


def test_of_a_pretrained_run_its_answers_and_token_losses_are_kept_and_no_weights(tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    (run / "evaluations").mkdir(parents=True)
    kept.mkdir()
    for step in (0, 20, 39):
        (run / "evaluations" / f"step_{step}.json").write_text(str(step))
    start = write_tiny_checkpoint(tmp_path / "start")
    write_tiny_checkpoint(run / "model", seed=1)
    keep_answers(run, kept)
    keep_token_losses(run, kept, start=start)
    assert {path.name for path in kept.rglob("*.*")} == {"step_0.json", "step_39.json", "token_losses.json"}
    rows = json.loads((kept / "token_losses.json").read_text())
    assert len(rows) == READ_ROWS
    for name, folder in (("before", start), ("after", run / "model")):
        network = adapt(from_folder(path=str(folder), quiet=True))
        for row in rows:
            scores = logits(network, torch.tensor([row["tokens"]]))[0].log_softmax(-1)
            by_hand = [-scores[i, token].item() for i, token in enumerate(row["tokens"][1:])]
            assert row[name] == pytest.approx([0.0, *by_hand], abs=1e-4)
    assert rows[0]["before"] != rows[0]["after"]
