"""A packed run is the padded run: fifty steps of the same rows, and what packing refuses."""

import numpy as np
import torch
from models_for_tests import VOCABULARY, build
from rows import random_rows

from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.training.distributed import World
from cot_components.training.loop import Trainer, train
from cot_components.transforms import Blur, ByRole

ROWS = random_rows(100, vocabulary=VOCABULARY)
LENGTHS = np.array([len(row.tokens) for row in ROWS.rows])
TRANSFORMS = {"blur": Blur(ratio=0.3), "weigh": ByRole({"thought": 0.5})}


def run(packed_tokens):
    """Fifty steps on the rows a packed plan names, laid end to end or padded."""
    plans = Plans(LENGTHS, batch_size=1, packed_tokens=128, gradient_accumulation_steps=2, epochs=8)
    assert plans.total_steps >= 50
    model, loss, seen = adapt(build("llama_tied")), sft().fused, []
    where = {"lr_scheduler": None, "device": torch.device("cpu"), "world": World()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    how = {"clip_grad_norm": 1.0, "log_blurred_every": 10}
    trainer = Trainer(model=model, loss=loss, optimizer=optimizer, plain_loss=loss, **where, **how)
    batches = Batches(ROWS, TRANSFORMS, 0, packed_tokens=packed_tokens)
    train(trainer, (batches[plans.plan(s)] for s in range(50)), on_step=lambda step, measured: seen.append(measured))
    return model, seen


def test_fifty_packed_steps_are_the_padded_ones():
    (packed, ours), (padded, theirs) = run(128), run(None)
    compared = {
        name: [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) if name in b] for name in theirs[0]
    }
    for name in ("loss", "objective", "loss_thought", "loss_answer", "loss_blurred", "grad_norm", "supervised_tokens"):
        differences = np.abs([a - b for a, b in compared[name]])
        assert len(differences) >= 5
        assert differences.max() < 2e-3 and differences.mean() < 2e-4, name
    weights = torch.cat(
        [(a - b).abs().flatten() for a, b in zip(packed.parameters(), padded.parameters(), strict=True)]
    )
    assert weights.max() < 2e-3 and weights.mean() < 2e-5
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.2
