"""The training loops that are compared: ours, torchtune's single-device recipe, TRL's SFTTrainer; each as it comes.

All start from the same weights, see the same rows in the same order, clip alike and use the same fused AdamW at
learning rate 0, so that the losses of every step must agree.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.paced import EndOfStep
from cot_components.clock import Clock
from cot_components.data.batches import Batches
from cot_components.data.plans import Plan
from cot_components.data.store import Rows
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.models.export import save_pretrained
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.roles import IGNORE, Role
from cot_components.training.distributed import World
from cot_components.training.loop import Trainer, train

Loop = Callable[[EndOfStep], None]
PAD_ID = 0
CLIP = 1.0
OPTIMIZER = {"lr": 0.0, "weight_decay": 0.0, "fused": True}


class Work(NamedTuple):
    """What every loop gets.

    shape:      keyword arguments of `llama3_2`
    rows:       tokens and how many of them, from the left, are the prompt
    batch_size: rows per step, in the order they are in
    device:     cpu or cuda
    """

    shape: dict[str, Any]
    rows: list[tuple[list[int], int]]
    batch_size: int
    device: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def labels(self, row: int) -> list[int]:
        tokens, prompt = self.rows[row]
        return [IGNORE] * prompt + tokens[prompt:]

    def model(self) -> Any:
        """A new model; the same weights every time."""
        from torchtune.models.llama3_2 import llama3_2

        torch.manual_seed(0)
        model = llama3_2(**self.shape)
        torch.nn.init.normal_(model.tok_embeddings.weight, std=0.02)
        return model


def encoded(work: Work) -> Rows:
    """The rows as our data sets hold them."""
    lengths = np.array([len(tokens) for tokens, _ in work.rows])
    roles = [np.where(np.arange(len(tokens)) < prompt, Role.PROMPT, Role.ANSWER) for tokens, prompt in work.rows]
    total = int(lengths.sum())
    return Rows(
        tokens=np.concatenate([tokens for tokens, _ in work.rows]).astype(np.int32),
        roles=np.concatenate(roles).astype(np.uint8),
        counters=np.full(total, -1, dtype=np.int32),
        weights=np.ones(total, dtype=np.float32),
        row_start=np.concatenate([[0], np.cumsum(lengths)]),
        ids=np.arange(len(lengths)),
    )


def in_order(work: Work) -> list[tuple[int, ...]]:
    """Rows of each step."""
    return [tuple(range(at, at + work.batch_size)) for at in range(0, len(work.rows), work.batch_size)]


def ours(
    work: Work,
    steps: Sequence[tuple[int, ...]] | None = None,
    *,
    packed_tokens: int | None = None,
    compile: bool = False,
) -> Loop:
    """Our loop as the recipes call it; `steps` are the rows of each."""
    plans = [Plan(Clock(0, number), (rows,)) for number, rows in enumerate(steps or in_order(work))]

    def loop(end_of_step: EndOfStep) -> None:
        model = adapt(work.model()).to(device=work.device, dtype=work.dtype)
        if compile:
            for layer in model.layers:
                layer.compile()
        plain = sft().fused
        trainer = Trainer(
            model=model,
            loss=plain,
            optimizer=torch.optim.AdamW(model.parameters(), **OPTIMIZER),
            lr_scheduler=None,
            device=torch.device(work.device),
            world=World(device=torch.device(work.device)),
            clip_grad_norm=CLIP,
            plain_loss=plain,
            log_blurred_every=0,
        )
        batches: Any = Batches(encoded(work), {}, PAD_ID, packed_tokens=packed_tokens)
        loader = DataLoader(batches, sampler=plans, batch_size=None, pin_memory=work.device == "cuda")  # type: ignore[arg-type]
        train(trainer, loader, on_step=lambda step, measured: end_of_step(measured["loss"]))

    return loop


HANDED: dict[str, Any] = {}
"""Work and end-of-step function of the stock recipe, which takes its parts by name; read while it is set up."""


def stock_weights(**_: Any) -> Any:
    """Stands for a checkpointer: the common weights in, nothing out."""
    weights = HANDED["work"].model().to(HANDED["work"].dtype).state_dict()
    return SimpleNamespace(load_checkpoint=lambda: {"model": weights}, save_checkpoint=lambda *_, **__: None)


def stock_logger() -> Any:
    """Stands for a metric logger: the recipe calls it at the end of each step."""
    end_of_step = HANDED["end_of_step"]
    return SimpleNamespace(
        log_config=lambda config: None,
        log_dict=lambda payload, step: end_of_step(float(payload["loss"])),
        close=lambda: None,
    )


def stock_rows(tokenizer: Any) -> list[dict[str, list[int]]]:
    work = HANDED["work"]
    return [{"tokens": tokens, "labels": work.labels(row)} for row, (tokens, _) in enumerate(work.rows)]


def stock_tokenizer() -> Any:
    return SimpleNamespace(pad_id=PAD_ID)


def stock(work: Work, *, compile: bool = False) -> Loop:
    """torchtune's `full_finetune_single_device`, set up and trained by itself."""
    settings = {
        "output_dir": tempfile.gettempdir(),
        **{name: {"_component_": f"{__name__}.stock_{part}"} for name, part in STOCK_PARTS.items()},
        "model": {"_component_": "torchtune.models.llama3_2.llama3_2", **work.shape},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "optimizer": {"_component_": "torch.optim.AdamW", **OPTIMIZER},
        "optimizer_in_bwd": False,
        "batch_size": work.batch_size,
        "gradient_accumulation_steps": 1,
        "clip_grad_norm": CLIP,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "shuffle": False,
        "seed": 0,
        "device": work.device,
        "dtype": "fp32" if work.device == "cpu" else "bf16",
        "compile": compile,
        "resume_from_checkpoint": False,
        "log_every_n_steps": 1,
    }

    def loop(end_of_step: EndOfStep) -> None:
        from omegaconf import OmegaConf

        config = OmegaConf.create(settings)
        HANDED.update(work=work, end_of_step=end_of_step)
        recipe = _stock_module().FullFinetuneRecipeSingleDevice(config)
        recipe.setup(cfg=config)
        recipe.train()

    return loop


STOCK_PARTS = {"checkpointer": "weights", "metric_logger": "logger", "dataset": "rows", "tokenizer": "tokenizer"}


def _stock_module() -> Any:
    """torchtune installs its recipes beside itself, in a package that refuses to be imported."""
    package = importlib.util.find_spec("torchtune")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parents[1] / "recipes" / "full_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("stock_recipe", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trl(work: Work, folder: Path, **settings: Any) -> Loop:
    """TRL's `SFTTrainer` on rows that are tokenised already, with a Hugging Face Llama of the common weights.

    Args:
        work: shape, rows and device.
        folder: for the model.
        settings: of `SFTConfig`: `packing`, `max_length`, `use_liger_kernel`, ...

    Raises:
        ImportError: TRL is not installed.
    """
    import trl as package
    from transformers import TrainerCallback

    def loop(end_of_step: EndOfStep) -> None:
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer

        write_tiny_checkpoint(folder / "tokenizer")
        save_pretrained(adapt(work.model()), folder / "model")
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=work.dtype).to(work.device)

        class Turn(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if "loss" in logs:
                    end_of_step(float(logs["loss"]))

        rows = [{"input_ids": tokens, "labels": work.labels(row)} for row, (tokens, _) in enumerate(work.rows)]
        common = {
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
            "max_length": None,
        }
        trainer = package.SFTTrainer(
            model=model,
            args=package.SFTConfig(**{**common, **settings}),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            callbacks=[Turn()],
        )
        trainer.train()

    return loop
