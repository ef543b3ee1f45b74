"""From scores on disk to the objective: a transform's classes reach the adaptive weight rule by batch and model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models_for_tests import VOCABULARY, build
from rows import random_store

from cot_components.clock import Clock
from cot_components.curriculum import Stepwise
from cot_components.data.bad_rows import DropReport
from cot_components.data.rows.batches import Batches, pad
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.store import Rows
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
    rows = random_store(5, vocabulary=VOCABULARY)

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

    flat_logits = logits(model, batch.tokens).flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(flat_logits, batch.labels.flatten(), reduction="none")
    nll = nll.view(batch.labels.shape)
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


def test_classes_stay_with_their_tokens_when_a_curriculum_removes_some(tmp_path: Path) -> None:
    """Scores are looked up by whole rows, so what reads them comes in front of the removal."""
    rows = scored_rows(tmp_path)
    transforms = {"blur": Blur(ratio=0.5), "highlight": Highlight(scores=str(tmp_path))}
    data = ReasoningDataset(rows, ((0, len(rows), 1.0),), transforms, None, DropReport())
    plans = Plans(rows.lengths, batch_size=1, epochs=9)
    curriculum = Stepwise(per_epoch=4, partial=True, smoothing=float("inf"))(plans, rows)
    removing = curriculum.applied_to(data)
    assert list(removing.transforms) == ["highlight", "remove", "blur"]
    removed = 0
    for plan in plans:
        for indices in plan.micro_batches:
            whole = transforms["highlight"](rows.flat(indices), plan.clock)
            kept = curriculum.remove(whole, plan.clock)
            batch = Batches(rows, removing.transforms, pad_id=0).batch(indices, plan.clock)
            assert torch.equal(batch.groups, pad(kept, pad_id=0).groups)
            removed += len(whole.tokens) - len(kept.tokens)
    assert removed > 0


def test_other_scores_are_another_run(tmp_path: Path) -> None:
    rows, _ = (scored_rows(tmp_path / name) for name in "ab")
    np.save(tmp_path / "b" / "shuffled.npy", np.load(tmp_path / "b" / "shuffled.npy") + np.float32(1.0))
    plans = Plans(rows.lengths, batch_size=2)
    looked_up = [{"h": Highlight(scores=str(tmp_path / name))} for name in "ab"]
    sets = [ReasoningDataset(rows, ((0, len(rows), 1.0),), each, None, DropReport()) for each in looked_up]
    first, second = (plan_facts(data, plans) for data in sets)
    refuse_other_plan(Earlier(None, {"plan": first}), first)
    with pytest.raises(UserError, match="scores"):
        refuse_other_plan(Earlier(None, {"plan": first}), second)
