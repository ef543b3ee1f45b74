"""From scores on disk to the objective: a transform's classes reach the adaptive weight rule by batch and model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models_for_tests import VOCABULARY, build
from rows import random_rows

from cot_components.clock import Clock
from cot_components.curriculum import Stepwise
from cot_components.data.bad_rows import DropReport
from cot_components.data.rows.batches import Batches, pad
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.datasets import ReasoningDataset
from cot_components.errors import UserError
from cot_components.losses import GroupSoftmax, sft
from cot_components.models.adapter import adapt, logits
from cot_components.runs.folder import Earlier
from cot_components.training.batching import plan_facts, refuse_other_plan
from cot_components.transforms import Blur, Highlight

TAU = 2.0


def scored_rows(folder: Path) -> Rows:
    """Rows with random scores; those of the first row make it one class throughout."""
    flat = random_rows(5, vocabulary=VOCABULARY).flat(range(5))
    columns = {name: getattr(flat, name).astype(kind) for name, kind in PER_TOKEN.items()}
    rows = Rows(**columns, row_start=flat.row_start, ids=flat.ids)

    def score(flat: Flat) -> dict[str, np.ndarray]:
        random = np.random.default_rng(int(flat.ids[0]))
        shuffled = np.where(np.repeat(flat.ids, flat.lengths) == rows.ids[0], -1, random.normal(size=len(flat.tokens)))
        return {"original": np.zeros(len(flat.tokens)), "shuffled": shuffled}

    names = {"original": Column("a"), "shuffled": Column("b")}
    score_rows(rows, score, folder, columns=names, tokenizer="t", max_tokens=1)
    return rows


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_the_objective_is_that_of_the_paper_sample_by_sample(tmp_path: Path, ratio: float) -> None:
    rows = scored_rows(tmp_path)
    transforms = {"blur": Blur(ratio=ratio, keep_first=0), "highlight": Highlight(scores=str(tmp_path))}
    batch = Batches(rows, transforms, pad_id=0).batch(range(5), Clock(0, 0))
    model = adapt(build("llama_tied"))
    out = model.loss(sft(weight_rule=GroupSoftmax(tau=TAU)).fused, batch)

    nll = torch.nn.functional.cross_entropy(
        logits(model, batch.tokens).flatten(0, 1), batch.labels.flatten(), reduction="none"
    ).view(batch.labels.shape)
    assert batch.groups is not None
    wanted, kinds = 0.0, []
    for row in range(5):
        counted = batch.labels[row] != -100
        means = [nll[row][counted & (batch.groups[row] == group)].mean() for group in (0, 1)]
        present = torch.stack([mean for mean in means if not mean.isnan()])
        wanted += float((torch.softmax(present / TAU, 0) * present).sum() * counted.sum())
        kinds.append(len(present))
    assert float(out.objective.detach()) == pytest.approx(wanted, rel=1e-5)
    assert kinds[0] == 1 and 2 in kinds
    assert float(out.loss.detach()) == pytest.approx(float(nll.sum()), rel=1e-5)


def test_without_classes_the_rule_says_what_is_missing() -> None:
    batch = pad(random_rows(2, vocabulary=VOCABULARY).flat(range(2)), pad_id=0)
    with pytest.raises(UserError, match="needs the column 'groups'"):
        adapt(build("llama_tied")).loss(sft(weight_rule=GroupSoftmax(tau=TAU)).fused, batch)


def test_scores_tell_the_classes_that_the_batch_carries(tmp_path: Path) -> None:
    rows = scored_rows(tmp_path)
    flat = Highlight(scores=str(tmp_path))(rows.flat([3]), Clock(0, 0))
    assert flat.groups is not None and 0 < flat.groups.sum() < len(flat.tokens)


def test_classes_stay_with_their_tokens_when_a_curriculum_removes_some(tmp_path: Path) -> None:
    """Scores are looked up by whole rows, so what reads them comes in front of the removal."""
    rows = scored_rows(tmp_path)
    transforms = {"blur": Blur(ratio=0.5), "highlight": Highlight(scores=str(tmp_path))}
    data = ReasoningDataset(rows, ((0, len(rows), 1.0),), transforms, None, DropReport())
    plans = Plans(rows.lengths, batch_size=1, epochs=9)
    curriculum = Stepwise(per_epoch=4, partial=True, smoothing=float("inf"))(plans, rows)
    removing = curriculum.applied_to(data)
    assert list(removing.transforms) == ["highlight", "remove", "blur"]
    compared = 0
    for plan in plans:
        for indices in plan.micro_batches:
            whole = transforms["highlight"](rows.flat(indices), plan.clock)
            kept = curriculum.remove(whole, plan.clock)
            batch = Batches(rows, removing.transforms, pad_id=0).batch(indices, plan.clock)
            assert torch.equal(batch.groups, pad(kept, pad_id=0).groups)
            compared += len(whole.tokens) > len(kept.tokens)
    assert compared > 0


def test_other_scores_are_another_run(tmp_path: Path) -> None:
    rows, _ = (scored_rows(tmp_path / name) for name in "ab")
    np.save(tmp_path / "b" / "shuffled.npy", np.load(tmp_path / "b" / "shuffled.npy") + np.float32(1.0))
    plans = Plans(rows.lengths, batch_size=2)
    facts = [
        plan_facts(ReasoningDataset(rows, ((0, len(rows), 1.0),), {"h": highlight}, None, DropReport()), plans)
        for highlight in (Highlight(scores=str(tmp_path / name)) for name in "ab")
    ]
    refuse_other_plan(Earlier(None, {"plan": facts[0]}), facts[0])
    with pytest.raises(UserError, match="the scores that a transform reads"):
        refuse_other_plan(Earlier(None, {"plan": facts[0]}), facts[1])
