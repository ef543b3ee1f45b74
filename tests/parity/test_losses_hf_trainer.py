"""Our losses in a real `transformers.Trainer`, and in TRL's: its own loss when plain, the formula when not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from cot_components import losses
from cot_components.errors import UserError
from cot_components.losses import hf_loss
from cot_components.models.tiny import write_tiny_checkpoint

ROWS, LENGTH, VOCAB = 16, 12, 40


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, max_position_embeddings=LENGTH, **sizes))


def dataset() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for row in range(ROWS):
        tokens = torch.randint(0, VOCAB, (LENGTH,), generator=generator)
        labels = tokens.clone()
        labels[: 2 + row % 7] = -100  # micro-batches of a step differ in their counts
        rows.append({"input_ids": tokens, "labels": labels})
    return rows


SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "learning_rate": 1e-2,
    "optim": "sgd",
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 3,
}


def train(folder: Path, loss: Callable[..., torch.Tensor] | None) -> tuple[dict[str, torch.Tensor], list[float]]:
    arguments = TrainingArguments(output_dir=str(folder), **SETTINGS)
    return trained(Trainer(model=tiny_model(), args=arguments, train_dataset=dataset(), compute_loss_func=loss))


def train_by_trl(folder: Path, loss: Callable[..., torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[float]]:
    write_tiny_checkpoint(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prepared = {"skip_prepare_dataset": True}
    arguments = SFTConfig(str(folder), dataset_kwargs=prepared, bf16=False, **SETTINGS)
    trainer = SFTTrainer(
        model=tiny_model(),
        args=arguments,
        train_dataset=Dataset.from_list([{name: row[name].tolist() for name in row} for row in dataset()]),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        compute_loss_func=loss,
    )
    return trained(trainer)


def trained(trainer: Trainer) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and logged losses at the end."""
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {name: tensor.detach() for name, tensor in trainer.model.state_dict().items()}, logged


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference over the whole model relative to the largest entry."""
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / largest


def dft_by_hand(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    nll = F.cross_entropy(logits, targets, reduction="none")
    return (torch.exp(-nll.detach()) * nll)[targets != -100].sum() / num_items_in_batch


def test_sft_is_the_trainers_own_loss(tmp_path: Path) -> None:
    own, own_log = train(tmp_path / "own", None)
    ours, our_log = train(tmp_path / "ours", hf_loss(losses.sft()))
    untrained = tiny_model().state_dict()
    assert len(our_log) == ROWS // 4 and our_log == pytest.approx(own_log, rel=1e-4)
    assert same(ours, own) < 1e-6 < 1e-3 < same(untrained, own)


def test_dft_is_the_formula(tmp_path: Path) -> None:
    by_hand, _ = train(tmp_path / "hand", dft_by_hand)
    ours, _ = train(tmp_path / "ours", hf_loss(losses.dft()))
    plain, _ = train(tmp_path / "plain", hf_loss(losses.sft()))
    assert same(ours, by_hand) < 1e-6 < 1e-3 < same(plain, by_hand)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL names an option as transformers 4 did
def test_trl_trains_the_same(tmp_path: Path) -> None:
    ours, our_log = train(tmp_path / "ours", hf_loss(losses.dft()))
    theirs, their_log = train_by_trl(tmp_path / "trl", hf_loss(losses.dft()))
    plain, _ = train(tmp_path / "plain", hf_loss(losses.sft()))
    assert len(their_log) == ROWS // 4 and their_log == pytest.approx(our_log, rel=1e-5)
    assert same(theirs, ours) < 1e-6 < 1e-3 < same(plain, ours)


def test_without_a_count_it_is_the_mean_of_the_batch() -> None:
    model, rows = tiny_model(), dataset()[:3]
    tokens, labels = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))
    outputs = model(input_ids=tokens)
    found = hf_loss(losses.sft())(outputs, labels)
    torch.testing.assert_close(found, model(input_ids=tokens, labels=labels).loss)
    torch.testing.assert_close(hf_loss(losses.sft())((outputs.logits,), labels), found)


def test_a_loss_that_needs_more_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="asft needs reference, which a Trainer does not pass to its loss function"):
        hf_loss(losses.asft())
    with pytest.raises(UserError, match="dft needs roles, which"):
        hf_loss(losses.dft(floor={"answer": 1.0}))
