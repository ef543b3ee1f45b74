"""The loop: the same step however the batch is split, honest denominators; the shuffled model that is tuned once."""

import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from rows import random_rows
from safetensors.torch import load_file
from tiny_models import VOCABULARY, build

from cot_components.clock import Clock
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.losses.weight_rules import GroupSoftmax
from cot_components.models.adapter import adapt
from cot_components.training.distributed import World
from cot_components.training.loop import NonFiniteError, Trainer, train, train_step
from cot_components.training.shuffled import WEIGHTS, tuned_model, weights_hash
from cot_components.transforms import Blur, ByRole

ROWS = random_rows(24, vocabulary=VOCABULARY)
LENGTHS = np.array([len(row.tokens) for row in ROWS.rows])


def make_trainer(family="llama_tied", *, lr=1e-2, **settings):
    model, plain = adapt(build(family)), sft().fused
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    where = {"lr_scheduler": None, "device": torch.device("cpu"), "world": World()}
    return Trainer(model=model, loss=plain, optimizer=optimizer, plain_loss=plain, **where, **settings)


def steps_of(batch_size, accumulate, *, ratio=0.5, epochs=2):
    plans = Plans(LENGTHS, batch_size=batch_size, gradient_accumulation_steps=accumulate, epochs=epochs)
    batches = Batches(ROWS, {"blur": Blur(ratio=ratio)}, pad_id=0)
    return [batches[plan] for plan in plans]


def run(batch_size, accumulate, **settings):
    trainer, seen = make_trainer(clip_grad_norm=1.0, log_blurred_every=3, **settings), []
    train(trainer, steps_of(batch_size, accumulate), on_step=lambda step, measured: seen.append(measured))
    return trainer, seen


@pytest.mark.parametrize("normalize", ["count", "weight"])
def test_accumulation_changes_nothing(normalize):
    whole, whole_seen = run(8, 1, normalize=normalize)
    names = ("loss", "objective", "loss_thought", "loss_answer", "supervised_tokens", "supervised_fraction")
    for batch_size, accumulate in [(1, 8), (2, 4), (4, 2)]:
        split, split_seen = run(batch_size, accumulate, normalize=normalize)
        assert len(split_seen) == 6
        for ours, theirs in zip(split_seen, whole_seen, strict=True):
            assert [ours[name] for name in names] == pytest.approx([theirs[name] for name in names], rel=1e-4)
        pairs = zip(split.model.parameters(), whole.model.parameters(), strict=True)
        assert max((a - b).abs().max() for a, b in pairs) < 2e-3


def test_the_step_is_the_mean_over_its_supervised_tokens():
    trainer, step = make_trainer(), steps_of(3, 2)[0]
    reference = copy.deepcopy(trainer.model)
    losses = torch.cat([reference.loss(sft().fused, batch).nll for batch in step.micro_batches])
    measured = train_step(trainer, step)
    assert measured["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert measured["supervised_tokens"] == len(losses)


def test_each_of_three_classes_has_its_loss():
    def classes(flat, clock):
        return replace(flat, groups=(np.arange(len(flat.tokens)) % 3).astype(np.uint8))

    trainer = make_trainer()
    trainer.loss = sft(weight_rule=GroupSoftmax(tau=1.0, num_groups=3)).fused
    step = Batches(ROWS, {"classes": classes}, pad_id=0)[Plans(LENGTHS, batch_size=4).plan(0)]
    measured = train_step(trainer, step)
    names = ("loss_boilerplate", "loss_reasoning", "loss_class_2")
    assert all(measured[name] > 0 for name in names) and "loss_class_3" not in measured


def test_a_step_without_supervised_tokens_is_skipped():
    trainer = make_trainer()
    before = copy.deepcopy(trainer.model.state_dict())
    batches = Batches(ROWS, {"nothing": lambda flat, clock: flat.with_weights(np.zeros_like(flat.weights))}, pad_id=0)
    measured = train_step(trainer, batches[Plans(LENGTHS, batch_size=4).plan(0)])
    assert measured["skipped"] == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_an_empty_micro_batch_does_not_count():
    trainer, step = make_trainer(), steps_of(4, 1)[0]
    empty = Batches(ROWS, {}, pad_id=0).batch([], Clock(0, 0))
    alone = train_step(make_trainer(), step)
    with_empty = train_step(trainer, step._replace(micro_batches=[*step.micro_batches, empty]))
    for name in ("loss", "grad_norm"):
        assert with_empty[name] == pytest.approx(alone[name])


@pytest.mark.parametrize(
    ("poison", "rate", "said"),
    [
        *((math.nan, 1e-2, r"loss nan.*Row ids: \d+"), (math.inf, 1e-2, r"loss inf.*Row ids: \d+")),
        *((1.0, rate, f"learning rate {re.escape(str(rate))}") for rate in (math.nan, math.inf, 1e39)),
    ],
)
def test_a_poisoned_step_stops_before_the_update(poison, rate, said):
    trainer, step = make_trainer(), steps_of(4, 2)[1]
    before = copy.deepcopy(trainer.model.state_dict())

    def broken(*args, **rest):
        out = sft().fused(*args, **rest)
        return out._replace(objective=out.objective * poison)

    trainer.loss = broken
    trainer.optimizer.param_groups[-1]["lr"] = rate
    with pytest.raises(NonFiniteError, match=f"^step 1: {said}"):
        train_step(trainer, step)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_the_poisoned_row_is_named():
    trainer, bad_token = make_trainer("llama_untied"), int(ROWS.rows[5].tokens[0])
    with torch.no_grad():
        trainer.model.tok_embeddings.weight[bad_token] = math.nan
    poisoned = {int(row.ids[0]) for row in ROWS.rows if bad_token in row.tokens[:-1]}
    with pytest.raises(NonFiniteError) as error:
        train_step(trainer, Batches(ROWS, {}, pad_id=0)[Plans(LENGTHS, batch_size=24).plan(0)])
    assert 0 < len(poisoned) < 16
    assert {int(row) for row in str(error.value).split("Row ids: ")[1].split(", ")} == poisoned


def run_packed(packed_tokens):
    """Fifty steps on the rows a packed plan names, laid end to end or padded."""
    rows = random_rows(100, vocabulary=VOCABULARY)
    lengths = np.array([len(row.tokens) for row in rows.rows])
    plans = Plans(lengths, batch_size=1, packed_tokens=128, gradient_accumulation_steps=2, epochs=8)
    transforms = {"blur": Blur(ratio=0.3), "weigh": ByRole({"thought": 0.5})}
    batches = Batches(rows, transforms, 0, packed_tokens=packed_tokens)
    trainer, seen = make_trainer(lr=3e-3, clip_grad_norm=1.0, log_blurred_every=10), []
    train(trainer, (batches[plans.plan(s)] for s in range(50)), on_step=lambda step, measured: seen.append(measured))
    return trainer.model, seen


def test_fifty_packed_steps_are_the_padded_ones():
    (packed, ours), (padded, theirs) = run_packed(128), run_packed(None)
    for name in ("loss", "objective", "loss_thought", "loss_answer", "loss_blurred", "grad_norm", "supervised_tokens"):
        differences = np.abs([a[name] - b[name] for a, b in zip(ours, theirs, strict=True) if name in b])
        assert len(differences) >= 5
        assert differences.max() < 2e-3 and differences.mean() < 2e-4, name
    pairs = zip(packed.parameters(), padded.parameters(), strict=True)
    weights = torch.cat([(a - b).abs().flatten() for a, b in pairs])
    assert weights.max() < 2e-3 and weights.mean() < 2e-5
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.2


def tuned(name: str, folder, **made_of):
    model = build(name)
    if name == "llama_lora":
        from torchtune.modules.peft import get_adapter_params, set_trainable_params

        set_trainable_params(model, get_adapter_params(model))
    calls = []

    def tune() -> None:
        calls.append(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * parameter.requires_grad)

    tuned_model(model, folder, made_of, tune)
    return model, len(calls)


@pytest.mark.parametrize("name", ["llama_tied", "llama_lora"])
def test_a_second_call_finds_the_weights(name, tmp_path) -> None:
    first, calls = tuned(name, tmp_path, base="a", steps=3)
    second, again = tuned(name, tmp_path, base="a", steps=3)
    assert (calls, again) == (1, 0) and weights_hash(first) == weights_hash(second)
    assert weights_hash(first) != weights_hash(build(name))

    kept = load_file(tmp_path / WEIGHTS)
    trainable = {name for name, parameter in first.named_parameters() if parameter.requires_grad}
    assert set(kept) == trainable and not list(tmp_path.glob("*.tmp"))


def test_what_it_was_made_of_and_damage(tmp_path) -> None:
    tuned("llama_tied", tmp_path, base="a", steps=3)
    with pytest.raises(UserError, match=r"steps \(3, now 4\)"):
        tuned("llama_tied", tmp_path, base="a", steps=4)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        tuned("llama_tied", tmp_path, base="a", steps=3)


def test_a_base_is_the_same_with_and_without_its_adapters() -> None:
    model = build("llama_lora")
    before = weights_hash(model, adapters=False), weights_hash(model)
    with torch.no_grad():
        model.layers[0].attn.q_proj.lora_a.weight.add_(1)
    assert weights_hash(model, adapters=False) == before[0] and weights_hash(model) != before[1]
