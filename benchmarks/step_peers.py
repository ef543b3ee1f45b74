"""The training loops that are compared: ours, torchtune's single-device recipe and, in `step_transformers`, those
around a Hugging Face model; each unmodified.

All start from the same weights, see the same rows in the same order, clip gradients alike and use the same fused AdamW
at learning rate 0, so that the losses of every step must agree.
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
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plan
from cot_components.data.rows.store import Rows
from cot_components.losses import sft
from cot_components.models import from_folder
from cot_components.models.adapter import adapt
from cot_components.roles import IGNORE, Role
from cot_components.training.distributed import World
from cot_components.training.float8 import check_float8
from cot_components.training.loop import Trainer, train
from cot_components.training.precision import Precision, with_exact_updates
from cot_components.training.setup import prepare_model
from cot_components.training.throughput import ModelFlops

Loop = Callable[[EndOfStep], None]
PAD_ID = 0
CLIP = 1.0
OPTIMIZER = {"lr": 0.0, "weight_decay": 0.0, "fused": True}


def llama(**shape: Any) -> Any:
    from torchtune.models.llama3_2 import llama3_2

    return llama3_2(**shape)


class Work(NamedTuple):
    """What every loop gets.

    shape:      keyword arguments of `build`
    rows:       tokens, and how many of them, from the left, are the prompt
    batch_size: rows per step, taken in order
    device:     cpu or cuda
    build:      builder of the model; peers support only Llama
    folder:     of a pretrained model in the hub's layout, instead of shape and builder
    products:   number format of weights and products; None is the device's own
    """

    shape: dict[str, Any]
    rows: list[tuple[list[int], int]]
    batch_size: int
    device: str
    build: Callable[..., Any] = llama
    folder: Path | None = None
    products: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.products or (torch.float32 if self.device == "cpu" else torch.bfloat16)

    @property
    def flops(self) -> ModelFlops:
        if self.folder is not None:
            return ModelFlops.of(self.model())
        with torch.device("meta"):
            return ModelFlops.of(self.build(**self.shape))

    def labels(self, row: int) -> list[int]:
        tokens, prompt = self.rows[row]
        return [IGNORE] * prompt + tokens[prompt:]

    def model(self) -> Any:
        """A new model on the device; the same weights every time."""
        if self.folder is not None:
            return from_folder(path=str(self.folder), quiet=True).to(self.device)
        torch.manual_seed(0)
        with torch.device(self.device):
            model = self.build(**self.shape)
        torch.nn.init.normal_(model.tok_embeddings.weight, std=0.02)
        return model


def encoded(work: Work) -> Rows:
    """The rows as our data sets store them."""
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
    float8: bool = False,
) -> Loop:
    """Our loop as the recipes call it; `steps` are the rows of each.

    Raises:
        UserError: float8 was requested where it is not supported.
    """
    check_float8(float8, device=torch.device(work.device), dtype="bf16", compile=compile)
    plans = [Plan(Clock(0, number), (rows,)) for number, rows in enumerate(steps or in_order(work))]

    def loop(end_of_step: EndOfStep) -> None:
        model = adapt(work.model()).to(work.dtype)
        prepare_model(model, World(), compile=compile, float8=float8, enable_activation_checkpointing=False)
        plain = sft().fused
        precision = Precision("bf16" if work.dtype == torch.bfloat16 else "fp32")
        trainer = Trainer(
            model=model,
            loss=plain,
            optimizer=with_exact_updates(torch.optim.AdamW(model.parameters(), **OPTIMIZER), model, precision),
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
"""Work and end-of-step function for the stock recipe, which gets its components by name; read during its setup."""


def stock_weights(**_: Any) -> Any:
    """Replaces the checkpointer: loads the common weights, saves nothing."""
    weights = HANDED["work"].model().to(HANDED["work"].dtype).state_dict()
    return SimpleNamespace(load_checkpoint=lambda: {"model": weights}, save_checkpoint=lambda *_, **__: None)


def stock_logger() -> Any:
    """Replaces the metric logger: the recipe calls it at the end of each step."""
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
    """torchtune's `full_finetune_single_device`, with its own setup and training loop."""
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
