"""What must change nothing changes nothing: 50 steps of a small model, compared by the largest and the mean difference
of losses and weights."""

import numpy as np
import pytest
import torch
from rows import random_rows
from tiny_models import VOCABULARY, build
from torch.utils.data import DataLoader

from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.losses import sft
from cot_components.models import from_folder
from cot_components.models.adapter import adapt
from cot_components.models.export import save_pretrained
from cot_components.training.distributed import World
from cot_components.training.loop import Trainer, train
from cot_components.training.setup import prepare_model
from cot_components.transforms import Blur, ByRole

ROWS = random_rows(40, vocabulary=VOCABULARY)
LENGTHS = np.array([len(row.tokens) for row in ROWS.rows])
STEPS = 50


def trained(*, batch_size=8, accumulate=1, transforms=None, workers=0, checkpointing=False, loss=None, model=None):
    """Losses of 50 steps of 8 rows, and the weights after them."""
    model = adapt(build("llama_tied") if model is None else model)
    prepare_model(model, World(), compile=False, enable_activation_checkpointing=checkpointing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        loss or sft().fused,
        optimizer,
        None,
        torch.device("cpu"),
        World(),
        clip_grad_norm=1.0,
        log_blurred_every=0,
    )
    plans = Plans(LENGTHS, batch_size=batch_size, gradient_accumulation_steps=accumulate, epochs=10)
    batches = Batches(ROWS, {"blur": Blur(ratio=0.3)} if transforms is None else transforms, pad_id=0)
    losses: list[float] = []
    loader = DataLoader(batches, sampler=plans, batch_size=None, num_workers=workers)
    train(trainer, loader, on_step=lambda step, measured: losses.append(measured["loss"]))
    assert len(losses) == STEPS and losses[-1] < losses[0]
    names = [name.replace("_checkpoint_wrapped_module.", "") for name, _ in model.named_parameters()]
    return np.array(losses), dict(zip(names, (p.detach() for p in model.parameters()), strict=True))


@pytest.fixture(scope="module")
def whole():
    return trained()


def compare(one, two, *, most, mean):
    (losses, weights), (same_losses, same_weights) = one, two
    assert weights.keys() == same_weights.keys()
    difference = torch.cat([(weights[name] - same_weights[name]).abs().flatten() for name in weights])
    assert np.abs(losses - same_losses).max() <= most and np.abs(losses - same_losses).mean() <= mean
    assert float(difference.max()) <= most and float(difference.mean()) <= mean


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 4), (1, 8)])
def test_accumulation(whole, batch_size, accumulate):
    compare(trained(batch_size=batch_size, accumulate=accumulate), whole, most=2e-3, mean=2e-5)


@pytest.mark.parametrize("change", [{"workers": 2}, {"checkpointing": True}, {"transforms": None}])
def test_bit_for_bit(whole, change):
    """Workers, activation checkpointing, and the same run again."""
    compare(trained(**change), whole, most=0.0, mean=0.0)


@pytest.mark.parametrize("transforms", [{"blur": Blur(ratio=0.0)}, {"weigh": ByRole({"thought": 1.0, "answer": 1.0})}])
def test_strength_0_is_plain_fine_tuning(transforms):
    compare(trained(transforms=transforms), trained(transforms={}), most=0.0, mean=0.0)


def test_plain_fine_tuning_is_cross_entropy():
    """Weights of 1 against torch's own cross-entropy over full logits."""

    def by_torch(hidden, head, labels, weights=None, **rest):
        logits = hidden @ head.T
        total = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
        out = sft().fused(hidden.detach(), head.detach(), labels, weights, **rest)
        return out._replace(objective=total)

    compare(trained(transforms={}, loss=by_torch), trained(transforms={}), most=2e-3, mean=2e-5)


def test_both_backbones_are_one_model(tmp_path):
    """A Llama of one folder on torchtune's modules and on those of `transformers`."""
    save_pretrained(build("llama_tied"), tmp_path / "llama")
    ours, theirs = (
        trained(model=from_folder(path=str(tmp_path / "llama"), backbone=backbone, quiet=True))
        for backbone in ("torchtune", "transformers")
    )
    assert np.abs(ours[0] - theirs[0]).max() <= 1e-4 and len(ours[0]) == STEPS
    assert not ours[1].keys() & theirs[1].keys()


def test_the_comparison_notices():
    """Negative control: a blur of 30 % is not plain fine-tuning."""
    with pytest.raises(AssertionError):
        compare(trained(), trained(transforms={}), most=2e-3, mean=2e-5)
