"""Right answers and losses of held-out rows against all logits, row by row."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rows import random_rows
from tiny_models import VOCABULARY, build

from cot_components.clock import Clock
from cot_components.data.rows.batches import Batches
from cot_components.losses import sft
from cot_components.models.adapter import adapt, logits
from cot_components.roles import Role
from cot_components.schedules import Schedule
from cot_components.training.distributed import World
from cot_components.training.loop import Trainer
from cot_components.training.validation import answers_right, losses_by_token
from cot_components.transforms.remove import Remove

ROWS = random_rows(40, vocabulary=VOCABULARY)
REMOVE = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=1), smoothing=float("inf"))


def right_one_by_one(model, clock) -> list[bool]:
    """Of each row with an answer: whether each of its answer tokens has the largest logit where it is predicted."""
    found = []
    for index in range(len(ROWS.rows)):
        flat = REMOVE(ROWS.flat([index]), clock)
        tokens = torch.from_numpy(flat.tokens)[None]
        chosen = logits(model.eval(), tokens)[0].argmax(-1)
        places = [i for i in range(1, len(flat.tokens)) if flat.roles[i] == Role.ANSWER]
        if places:
            found.append(all(chosen[i - 1] == tokens[0, i] for i in places))
    return found


@pytest.mark.parametrize("step", [0, 3])
def test_right_answers_are_those_found_one_by_one(step) -> None:
    """The model learns the rows by heart, so that some are right and some are not."""
    model = adapt(build("llama_tied"))
    batches = Batches(ROWS, {"remove": REMOVE}, pad_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    batch = batches.batch(range(4), Clock(0, step))
    for _ in range(25):
        (model.loss(sft().fused, batch).objective / batch.num_supervised).backward()
        optimizer.step()
        optimizer.zero_grad()
    lengths = np.array([len(row.tokens) for row in ROWS.rows])
    data = SimpleNamespace(rows=SimpleNamespace(lengths=lengths), batches=lambda: batches)
    expected = right_one_by_one(model, Clock(0, step))
    model.train()
    trainer = Trainer(model, sft().fused, optimizer, None, torch.device("cpu"), World())
    found = answers_right(trainer, data, batch_size=7, clock=Clock(0, step))
    assert found == pytest.approx(np.mean(expected)) and 0 < found < 1 and model.training
    parts = []
    for rank in range(2):
        trainer.world = SimpleNamespace(rank=rank, size=2, sum=lambda values: parts.append(values) or values)
        answers_right(trainer, data, batch_size=7, clock=Clock(0, step))
    assert np.sum(parts, axis=0).tolist() == [len(expected), sum(expected)]


@pytest.mark.parametrize("step", [0, 3])
def test_losses_of_tokens_are_those_of_all_logits(step) -> None:
    """Of the first rows as encoded; what the curriculum removed has none, and neither has the prompt."""
    model = adapt(build("llama_tied"))
    tokenizer = SimpleNamespace(pad_id=0, decode=lambda ids: "".join(chr(97 + i % 26) for i in ids))
    lengths = np.array([len(row.tokens) for row in ROWS.rows])
    rows = SimpleNamespace(lengths=lengths, flat=ROWS.flat)
    data = SimpleNamespace(rows=rows, transforms={"remove": REMOVE}, chat=SimpleNamespace(tokenizer=tokenizer))
    trainer = Trainer(model.train(), sft().fused, None, None, torch.device("cpu"), World(), plain_loss=sft().fused)
    compared = gone = 0
    for index, row in enumerate(losses_by_token(trainer, data, clock=Clock(0, step))):
        encoded, flat = ROWS.flat([index]), REMOVE(ROWS.flat([index]), Clock(0, step))
        with torch.no_grad():
            logp = logits(model.eval(), torch.from_numpy(flat.tokens)[None])[0].log_softmax(-1)
        expected = [-float(logp[i - 1, flat.tokens[i]]) for i in range(1, len(flat.tokens)) if flat.roles[i]]
        found = [piece.loss for piece in row.pieces if piece.loss is not None]
        assert found == pytest.approx(expected, abs=1e-3) and row.row_id == encoded.ids[0]
        assert "".join(piece.text for piece in row.pieces) == tokenizer.decode(encoded.tokens)
        assert row.pieces[0] == (tokenizer.decode(encoded.tokens[encoded.roles == Role.PROMPT]), "prompt", None)
        missing = sum(piece.loss is None for piece in row.pieces[1:])
        assert missing == len(encoded.tokens) - len(flat.tokens)
        compared, gone = compared + len(found), gone + missing
    assert index == 7 and compared > 50 and (gone > 0) == (step > 0)
