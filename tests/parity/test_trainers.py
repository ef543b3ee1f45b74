"""Our mixin in `transformers.Trainer` and TRL's `SFTTrainer` trains as the recipe does: the same rows, masks, weights,
references, steps.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, must
from commands import run as typed
from tiny_models import FROM_FOLDER
from tiny_runs import read, run
from torch.utils.data import Sampler
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from cot_components.config import build
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.huggingface import ReasoningTrainerMixin
from cot_components.huggingface.trainer import READ
from cot_components.runs.log import read_log

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*pin_memory:UserWarning")

ROWS, STEPS, EPOCHS, LR = 80, 20, 2, 1e-3
EQUAL = 1e-5
"""Relative difference of a step's loss: two implementations of Llama in fp32, after 20 updates; 1e-6 was seen."""

COMMON = f"""
dataset.source=generated dataset.max_rows={ROWS} dataset_val=null evaluation=null epochs={EPOCHS} batch_size=4
gradient_accumulation_steps=2 lr_scheduler=null optimizer.lr={LR} optimizer.weight_decay=0 log_every_n_steps=1
log_blurred_every=0 save_every_minutes=null export_checkpoints=false
""".split()
RULE = "{_component_: cot_components.losses.GroupSoftmax, tau: 3.0}"
BY_ROLE = "{_component_: cot_components.transforms.ByRole, factors: {answer: 3.0, think_open: 0}}"
HALF = "dataset.transforms.blur.ratio=0.5"
TARGET = [HALF, "loss=cot_components.losses.target_sft", "loss.eta=0.5"]


def overrides(hub: Path, method: str) -> list[str]:
    tokenizer = f"{{_component_: cot_components.models.hf_tokenizer, path: {hub / 'model'}}}"
    numbers = f"{{_component_: cot_components.transforms.ByPattern, patterns: ['[0-9]+'], tokenizer: {tokenizer}}}"
    teacher = f"model: {{_component_: cot_components.models.from_folder, path: {hub / 'teacher'}}}"
    stored = f"{{_component_: cot_components.models.TopKFile, folder: {hub / 'topk'}, k: 8, {teacher}}}"
    named = {
        "blur": [HALF],
        "rft": ["dataset.transforms.blur=null", f"dataset.transforms.classes={numbers}", f"loss.weight_rule={RULE}"],
        "weighed": [f"dataset.transforms.weights={BY_ROLE}"],
        "target": [*TARGET, f"reference={{_component_: cot_components.models.FrozenModel, {teacher}}}"],
        "stored": [*TARGET, f"reference={stored}"],
    }
    paths = [f"model.path={hub / 'model'}", f"tokenizer.path={hub / 'model'}"]
    return [*FROM_FOLDER, *paths, *COMMON, *named[method]]


@pytest.fixture(scope="module")
def recipe(hub, tmp_path_factory):
    """The losses of the recipe's steps, by method; each trained once."""
    known: dict[str, list[float]] = {}

    def losses(method: str) -> list[float]:
        if method not in known:
            out = tmp_path_factory.mktemp(method)
            assert run("bt_sft", [*overrides(hub, method), f"output_dir={out}"]).code == 0
            known[method] = [record["objective"] for record in read_log(out) if "objective" in record]
            assert len(known[method]) == STEPS
        return known[method]

    return losses


class InOrder(Sampler[int]):
    """The recipe's order of rows, epoch by epoch."""

    def __init__(self, data: ReasoningDataset) -> None:
        self.plans, self.epoch = Plans(data.rows.lengths, batch_size=8, epochs=EPOCHS), 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Any:
        return iter(self.plans.epoch_order(self.epoch).tolist())


class Ours(ReasoningTrainerMixin, Trainer):
    def _get_train_sampler(self, *_: Any) -> InOrder:
        return InOrder(self.collator.data["train"])


class OursTrl(ReasoningTrainerMixin, SFTTrainer):
    _get_train_sampler = Ours._get_train_sampler


SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": EPOCHS,
    "learning_rate": LR,
    "adam_beta2": 0.95,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def made(hub: Path, out: Path, method: str, *, kind: Any = Ours, fused: bool = False, **changed: Any) -> Any:
    """A trainer of the same parts as the recipe."""
    config = read("bt_sft/quickstart", *overrides(hub, method))
    data = build(config["dataset"], build(config["tokenizer"]))
    more: dict[str, Any] = {"fused": fused}
    if method == "target":
        more["reference"] = model_of(hub / "teacher")
    if method == "stored":
        more["reference"] = build(config["reference"])
    arguments = TrainingArguments
    if kind is OursTrl:
        arguments, more["processing_class"] = SFTConfig, AutoTokenizer.from_pretrained(hub / "model")
        changed |= {"bf16": False, "gradient_checkpointing": False}
    return kind(
        model_of(hub / "model"),
        arguments(str(out), **{**SETTINGS, **changed}),
        train_dataset=data,
        loss=build(config["loss"]),
        **more,
    )


def trained(trainer: Any, **how: Any) -> list[float]:
    trainer.train(**how)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


WORKERS = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}


METHODS = ("blur", "rft", "weighed", "target", "stored")
CASES = [*((method, {"fused": fused}) for method in METHODS for fused in (False, True)), ("blur", WORKERS)]
CASES += [(method, {"kind": OursTrl}) for method in ("blur", "target")]
CASES += [("blur", {"kind": OursTrl, "fused": True}), ("blur", {"average_tokens_across_devices": False})]


@pytest.mark.parametrize(("method", "settings"), CASES, ids=str)
def test_twenty_steps_are_the_recipe_s(hub, tmp_path, recipe, method, settings):
    assert trained(made(hub, tmp_path, method, **settings)) == pytest.approx(recipe(method), rel=EQUAL)


class Theirs(Trainer):
    """The model's own loss on our rows and masks."""

    _get_train_sampler = Ours._get_train_sampler

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **how: Any) -> Any:
        return super().compute_loss(model, {name: inputs[name] for name in (*READ, "labels") if name in inputs}, **how)


@pytest.mark.parametrize("fused", [False, True])
def test_noise_on_embeddings_is_that_of_the_trainer_s_own_loss(hub, tmp_path, recipe, fused):
    """NEFTune, drawn from the same seed; plain fine-tuning of all tokens with a label, in the first epoch."""
    noisy = {"neftune_noise_alpha": 10.0, "max_steps": 10}
    ours = made(hub, tmp_path, "blur", fused=fused, **noisy)
    theirs = Theirs(
        model_of(hub / "model"),
        TrainingArguments(str(tmp_path), **SETTINGS, **noisy, remove_unused_columns=False),
        data_collator=ours.collator,
        train_dataset=ours.collator.rows(),
    )
    theirs.collator = ours.collator
    found = []
    for trainer in (ours, theirs):
        torch.manual_seed(0)
        found.append(trained(trainer))
    assert found[0] == pytest.approx(found[1], rel=EQUAL) and found[0] != pytest.approx(recipe("blur")[:10], rel=EQUAL)


def test_the_methods_differ(recipe):
    """So that the test above would see weights, a reference or a top k that do not reach the loss."""
    losses = [recipe(method) for method in METHODS]
    for one, other in itertools.combinations(losses, 2):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 100 * EQUAL * one[0]


@pytest.mark.parametrize("step", [10, 13])
def test_a_resumed_run_draws_the_masks_of_its_epoch(hub, tmp_path, recipe, step):
    trainer = made(hub, tmp_path, "blur", save_strategy="steps", save_steps=step, save_total_limit=1, max_steps=step)
    assert trained(trainer) == pytest.approx(recipe("blur")[:step], rel=EQUAL)
    assert int(trainer.collator.epoch) == (step - 1) // 10
    again = made(hub, tmp_path, "blur")
    found = trained(again, resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert found == pytest.approx(recipe("blur"), rel=EQUAL)


def test_without_the_epoch_the_second_epoch_differs(hub, tmp_path, recipe):
    trainer = made(hub, tmp_path, "blur")
    trainer.collator.set_epoch = lambda epoch: None
    found = trained(trainer)
    assert found[:10] == pytest.approx(recipe("blur")[:10], rel=EQUAL)
    assert not any(
        loss == pytest.approx(ours, rel=EQUAL) for loss, ours in zip(found[10:], recipe("blur")[10:], strict=True)
    )


def test_two_processes_are_one(hub, tmp_path, recipe):
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join(str(ROOT / part) for part in (".", "recipes", "tests/helpers"))
    printed = must(typed(*launch, __file__, hub, tmp_path, cwd=tmp_path, env={"PYTHONPATH": path}))
    for found in json.loads(printed.splitlines()[-1]):
        assert found == pytest.approx(recipe("rft"), rel=EQUAL)


def worker(hub: str, out: str) -> None:
    """One of two processes: what is two micro-batches elsewhere is one on each."""
    one = {"method": "rft", "gradient_accumulation_steps": 1}
    with pytest.raises(UserError, match="average_tokens_across_devices"):
        made(Path(hub), Path(out), **one, average_tokens_across_devices=False)
    losses = [trained(made(Path(hub), Path(out), fused=fused, **one)) for fused in (False, True)]
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        print(json.dumps(losses), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort while the interpreter winds down


if __name__ == "__main__":
    worker(*sys.argv[1:])
