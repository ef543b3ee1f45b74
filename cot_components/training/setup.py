"""Set-up before the first step, shared by all recipes: device, number format, seeds, the run's folder."""

from __future__ import annotations

import json
import os
import platform
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cot_components.config import build
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.errors import UserError, require
from cot_components.files import writing
from cot_components.models.adapter import PADDING, check_token_id
from cot_components.models.think_tokens import grow_vocabulary
from cot_components.runs.folder import Earlier, enter_folder
from cot_components.runs.layout import VERSIONS
from cot_components.training.distributed import World, shard, start
from cot_components.training.exact_updates import StochasticRounding
from cot_components.training.float8 import convert_to_float8
from cot_components.training.precision import Precision, choose_precision, warn_of_rounding, with_exact_updates

if TYPE_CHECKING:
    from cot_components.evaluation import AnswerEvaluation

UNTRAINED = 1e-12
"""An embedding row with no entry larger than this is untrained, such as reserved tokens of a base model."""


class Run(NamedTuple):
    """A run's folder, process, device and number formats."""

    output_dir: Path
    device: torch.device
    precision: Precision
    world: World
    earlier: Earlier | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and products."""
        return self.precision.torch_dtype

    @property
    def start_step(self) -> int:
        """Optimizer steps done before this process began."""
        return self.earlier.state["step"] if self.earlier else 0

    @property
    def boundaries(self) -> Sequence[tuple[int, int]]:
        """Stage boundaries of a measured pace from before this process began."""
        return self.earlier.state.get("boundaries", ()) if self.earlier else ()


def start_run(*, output_dir: str, device: str, seed: int, config: Mapping[str, Any], resume: str = "never") -> Run:
    """Choose device and number format, seed everything, join the process group, lock the run's folder and decide
    whether to resume an earlier run in it.

    Args:
        output_dir: the run's folder.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        seed: of the global random generators of torch, numpy and Python.
        config: the run's config; number formats are read from it, see `choose_precision`.
        resume: `auto` resumes an unfinished run of the same config, `never` refuses a folder that holds a run; or the
            path of a checkpoint.

    Raises:
        UserError: no such device or format; see `runs.folder.enter_folder`.
        AlreadyFinished: the run is already finished.
    """
    _check_numbers(config)
    said: list[str] = []
    precision = choose_precision(config, pick_device(device), said.append)
    world = start(pick_device(device))
    world.agree({**_of_every_process(config, world.device), "number format of the products": precision.dtype})
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    folder = Path(output_dir).expanduser().absolute()
    earlier = world.first_decides(lambda: enter_folder(folder, config, resume=resume))
    if world.is_first:
        for message in (*said, *((*earlier.messages, *_changes(folder / VERSIONS)) if earlier else ())):
            print(message, flush=True)
        with writing(folder / VERSIONS):
            (folder / VERSIONS).write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")
    return Run(folder, world.device, precision, world, earlier)


def _of_every_process(config: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Facts that must be equal on all processes before the first step, by name: every config key, versions, the kind of
    device, and torch's switches that affect the rounding of products.
    """
    installed = {name: version for name, version in versions().items() if name != "cpu threads"}
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rounding = {"device": kind, "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision()}
    return {**dict(_keys(config)), **installed, **rounding}


def _keys(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a config."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Raises UserError for a number that would not have the meaning its author expects."""
    if (limit := config.get("clip_grad_norm")) is not None:
        require("clip_grad_norm (null for none)", limit, 0.0, above=True)
    if (every := config.get("evaluate_every_n_steps")) is not None:
        require("evaluate_every_n_steps (null for never)", every, 1)
    for name in ("log_every_n_steps", "log_blurred_every"):
        require(f"{name} (0 for never)", config.get(name, 0), 0)
    for name in ("num_workers", "shown_rows"):
        require(name, config.get(name, 0), 0)
    if abs(seed := config.get("seed", 0)) >= 2**63:
        raise UserError(f"seed must be below 2**63, got {seed}")


def _changes(written: Path) -> list[str]:
    """A message if something that affects the run's numbers has changed since it began."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        before, now = json.loads(written.read_text(encoding="utf-8")), versions()
        changed = [
            f"{name} was {before[name]}, is {now[name]}" for name in now if before.get(name) not in (None, now[name])
        ]
        if changed:
            return [f"{'; '.join(changed)}: results may differ in the last bits"]
    return []


def versions() -> dict[str, str]:
    """Versions of everything that affects a run's numbers, down to the last bits."""
    names = ["cot-components", "torch", "torchtune", "torchao", "numpy", "tokenizers", "datasets"]
    names += [name for name in ("transformers", "peft") if name in sys.modules]
    found = {name: _version(name) for name in names}
    return {"python": platform.python_version(), **found, "cpu threads": str(torch.get_num_threads())}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout of this project on the path
        return "not installed"


def pick_device(device: str) -> torch.device:
    """The torch device a config names.

    Raises:
        UserError: no such device here, or it is neither a CPU nor a CUDA GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device: {device!r} is not a device; try auto, cpu or cuda") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device: {device} is not supported; try auto, cpu or cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was requested, but torch sees no GPU; use device=cpu, or device=auto")
    return chosen


def one_process(run: Run, recipe: str) -> None:
    """Refuse several processes.

    Raises:
        UserError: there are several.
    """
    if run.world.size > 1:
        raise UserError(f"{recipe} runs as one process, not {run.world.size}; start it without --nproc_per_node")


def fit_rows(
    model: Any, data: ReasoningDataset, *held_out: ReasoningDataset | None, answers: AnswerEvaluation | None = None
) -> None:
    """Fit the model to its data before the first step: adds embedding rows for tags that became tokens, nothing else.

    Args:
        model: changed in place.
        data: the training data.
        held_out: validation rows, or None.
        answers: prompts it will answer; see `AnswerEvaluation.prompts`.

    Raises:
        UserError: a row is longer than the context; a row or the padding has a token id that the model does not have;
            the tags' embedding rows are untrained but frozen; a prompt cannot be rendered, or leaves no room in the
            context.
    """
    if data.tag_ids:
        added = grow_vocabulary(model, data.chat.tokenizer.vocab_size)
        _refuse_frozen_tags(model, data.tag_ids, added)
    for rows in (part.rows for part in (data, *held_out) if part is not None):
        row, largest = int(rows.lengths.argmax()), int(rows.tokens.max())
        longest = int(rows.lengths[row])
        if longest > model.max_seq_len:
            raise UserError(
                f"row {rows.ids[row]}, the longest, has {longest} tokens, the model's context has {model.max_seq_len}; "
                "use a model with a longer one, or set dataset.max_seq_len, and dataset.strict=false to leave out "
                "longer rows or (in a reasoning_dataset) dataset.too_long=cut_thought to shorten them"
            )
        check_token_id(model, largest, "the data")
    check_token_id(model, data.chat.tokenizer.pad_id, PADDING)
    for name, transform in data.transforms.items():
        check_token_id(model, getattr(transform, "largest_id", 0), f"dataset.transforms.{name}")
    if answers is not None:
        answers.prompts(data.chat, max_seq_len=model.max_seq_len)
        answers.compare_with_training(data.rows, data.chat)


def _refuse_frozen_tags(model: Any, tag_ids: Mapping[str, int], added: int) -> None:
    """With adapters the embedding is frozen: two tags that start as the same mean vector could never be told apart."""
    weight = model.tok_embeddings.weight
    if weight.requires_grad:
        return
    rows = weight[list(tag_ids.values())].float()
    untrained = bool((rows.abs().amax(dim=1) < UNTRAINED).any()) or len(rows.unique(dim=0)) < len(rows)
    if added or untrained:
        raise UserError(
            f"dataset.tags_as: token gives {' and '.join(tag_ids)} rows of the embedding that are not trained yet, but "
            "this model's embedding is frozen; set dataset.tags_as: text, or train all weights"
        )


def build_optimizer(
    optimizer: Mapping[str, Any],
    lr_scheduler: Mapping[str, Any] | None,
    model: Any,
    run: Run,
    *,
    num_steps: int,
    before: torch.optim.Optimizer | None = None,
) -> tuple[torch.optim.Optimizer, Any]:
    """A new optimizer for the weights of `model`, and its learning-rate schedule over `num_steps` steps (or None).

    Args:
        optimizer, lr_scheduler: nodes.
        model: already sharded, if it is to be.
        run: its number formats decide how weights are updated.
        num_steps: of the schedule.
        before: the optimizer that the new one replaces; only fp32 weights are taken from it.

    Raises:
        UserError: one of them refuses a setting.
    """
    optim = with_exact_updates(build(optimizer, model.parameters(), where="optimizer"), model, run.precision)
    schedule = build(lr_scheduler, optim, where="lr_scheduler", num_training_steps=num_steps)
    if before is None:
        warn_of_rounding(optim, run.precision, run.world)
    elif isinstance(optim, StochasticRounding):
        optim.take_over(before)
    return optim, schedule


def prepare_model(
    model: Any, world: World, *, compile: bool, enable_activation_checkpointing: bool, float8: bool = False
) -> None:
    """Convert to float8, checkpoint activations, compile layer by layer, shard: in this order, in place.

    Initial weights are the same on all processes; from here on each process has its own random stream (for dropout).
    """
    from torchtune.training import set_activation_checkpointing

    kinds = {type(layer) for layer in model.layers}
    if float8:
        convert_to_float8(model)
    if enable_activation_checkpointing:
        set_activation_checkpointing(model, auto_wrap_policy=kinds)
    if compile:
        for layer in (module for module in model.modules() if type(module) in kinds):
            layer.compile(backend=os.environ.get("TORCH_COMPILE_BACKEND", "inductor"))
    shard(model, world)
    if world.size > 1:
        torch.manual_seed((torch.initial_seed() * world.size + world.rank) % 2**63)
