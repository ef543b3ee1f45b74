"""Training loops around a Hugging Face Llama with the common weights: `transformers`' trainer, TRL's, and a minimal
loop around another project's fused loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss_peers import Peer
from benchmarks.paced import EndOfStep
from benchmarks.step_peers import CLIP, OPTIMIZER, Loop, Work, in_order
from cot_components.models.adapter import adapt
from cot_components.models.export import save_pretrained
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.roles import IGNORE


def transformers_model(work: Work, folder: Path) -> Any:
    """The common weights in `transformers`; written to the folder on first use."""
    from transformers import AutoModelForCausalLM

    source = work.folder or folder / "model"
    if not source.exists():
        save_pretrained(adapt(work.model()).to(work.dtype), source)
    return AutoModelForCausalLM.from_pretrained(source, dtype=work.dtype).to(work.device)


def shortest(work: Work, folder: Path, make_loss: Callable[[], Peer], *, compile: bool = False) -> Loop:
    """Body, fused loss, clip, update, and nothing else; the layers are compiled one by one, as ours are.

    Raises:
        ImportError: the package of the loss is not installed.
    """
    loss = make_loss()

    def loop(end_of_step: EndOfStep) -> None:
        model = transformers_model(work, folder).train()
        if compile:
            for layer in model.model.layers:
                layer.compile(backend=os.environ.get("TORCH_COMPILE_BACKEND", "inductor"))
        optimizer = torch.optim.AdamW(model.parameters(), **OPTIMIZER)
        for rows in in_order(work):
            tokens = torch.tensor([work.rows[row][0] for row in rows], device=work.device)
            labels = torch.tensor([work.labels(row)[1:] for row in rows], device=work.device).flatten()
            hidden = model.model(tokens, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            value = loss(hidden, model.lm_head.weight, labels) / (labels != IGNORE).sum()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            end_of_step(value.item())

    return loop


def trl(work: Work, folder: Path, *, supervised: list[int] | None = None, **settings: Any) -> Loop:
    """TRL's `SFTTrainer` on tokenised rows, with a Hugging Face Llama of the common weights.

    Args:
        work: shape, rows and device.
        folder: for the model.
        supervised: filled with the number of labels in each row of the data set that TRL prepares.
        settings: of `SFTConfig`: `packing`, `max_length`, `use_liger_kernel`, ...

    Raises:
        ImportError: TRL is not installed.
    """
    import trl as package

    def loop(end_of_step: EndOfStep) -> None:
        from transformers import AutoTokenizer

        write_tiny_checkpoint(folder / "tokenizer")
        trainer = package.SFTTrainer(
            model=transformers_model(work, folder),
            args=package.SFTConfig(**{**trainer_settings(work, folder), "max_length": None, **settings}),
            train_dataset=row_table(work),
            processing_class=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            callbacks=[turn(end_of_step)],
        )
        if supervised is not None:
            supervised.extend(sum(label != IGNORE for label in row) for row in trainer.train_dataset["labels"])
        trainer.train()

    return loop


def hf_trainer(work: Work, folder: Path, **settings: Any) -> Loop:
    """`transformers.Trainer` on rows of one length; settings are of its `TrainingArguments`.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import Trainer, TrainingArguments, default_data_collator

    def loop(end_of_step: EndOfStep) -> None:
        Trainer(
            model=transformers_model(work, folder),
            args=TrainingArguments(**{**trainer_settings(work, folder), **settings}),
            train_dataset=row_table(work),
            data_collator=default_data_collator,
            callbacks=[turn(end_of_step)],
        ).train()

    return loop


def trainer_settings(work: Work, folder: Path) -> dict[str, Any]:
    """Arguments of both trainers: the optimizer of all loops, rows in order, a loss after every step."""
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": work.batch_size,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "learning_rate": OPTIMIZER["lr"],
        "weight_decay": OPTIMIZER["weight_decay"],
        "max_grad_norm": CLIP,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": work.device == "cpu",
        "bf16": work.device != "cpu",
    }


def row_table(work: Work) -> Any:
    """Tokens and labels as a `datasets.Dataset`."""
    from datasets import Dataset

    rows = [{"input_ids": tokens, "labels": work.labels(row)} for row, (tokens, _) in enumerate(work.rows)]
    return Dataset.from_list(rows)


def turn(end_of_step: EndOfStep) -> Any:
    """A callback that ends a trainer's turn when it logs the loss of a step."""
    from transformers import TrainerCallback

    class Turn(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                end_of_step(float(logs["loss"]))

    return Turn()
