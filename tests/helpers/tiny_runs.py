"""Recipes run tiny in this process, broken at a point, gone on with, compared.

A recipe joins by existing: whatever in `recipes/` can be resumed is found here, from its own quickstart config. Only
what its config reads from disk is made for it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tally import count

import cot_components.training.finish as finish
import cot_components.training.loop as loop
from cot_components.config import find_config
from cot_components.models.tiny import SHAPE
from cot_components.runs.log import read_log
from cot_components.training.recipe import read_config

SMALL = """
dataset.max_rows=44 dataset.num_rows=44 dataset_val.max_rows=6 epochs=2 batch_size=4 gradient_accumulation_steps=2
evaluation.max_rows=3 evaluation.max_new_tokens=4 evaluation.batch_size=2 evaluate_every_n_steps=4
evaluate_before_training=true log_every_n_steps=1 log_blurred_every=3 device=cpu dtype=fp32 num_workers=0
lr_scheduler.num_warmup_steps=2 curriculum.per_epoch=4 curriculum.pretrain_epochs=0
model.embed_dim=32 model.num_layers=2 model.num_heads=2 model.num_kv_heads=2 model.intermediate_dim=48
"""
"""Overrides of the keys a config has: 44 rows make 6 steps of 8 rows per epoch, the last one ragged; 12 in all."""

PUBLISHED_PACE = {"curriculum.pace": "exact", "dataset.exclude": "[]", "dataset_val": "null"}
"""What makes a quickstart of internalisation remove a token per epoch, learnt or not."""

TOTAL, PER_EPOCH = 12, 6
FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "manifest.json")
"""What a checkpoint consists of."""
NOT_EXACT = (
    "tokens_per_second",
    "supervised_tokens_per_second",
    "loader_wait_fraction",
    "step_seconds",
    "answer_tokens_per_second",
)


def training_recipes() -> list[str]:
    """Every recipe that can be resumed."""
    names = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
    return [name for name in names if "resume" in inspect.signature(importlib.import_module(name).main).parameters]


def read(name: str, *overrides: str) -> dict[str, Any]:
    """The checked config of a shipped name with overrides, as its recipe reads it."""
    main = importlib.import_module(name.split("/")[0]).main
    return read_config(main.__wrapped__, ["--config", name, *overrides], main.supplies, main.requires)


def has_key(config: Mapping[str, Any], dotted: str) -> bool:
    for key in dotted.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return False
        config = config[key]
    return True


def overrides_for(name: str, hub: Path) -> list[str]:
    """What makes a recipe's quickstart tiny and complete."""
    written = OmegaConf.to_container(OmegaConf.load(find_config(f"{name}/quickstart")))
    assert isinstance(written, dict)
    keys = inspect.signature(importlib.import_module(name).main).parameters
    small: dict[str, Any] = dict(word.split("=") for word in SMALL.split())
    chosen = {key: value for key, value in small.items() if key in keys or has_key(written, key)}
    if "curriculum" in written:
        chosen |= {"curriculum.partial": "true", **PUBLISHED_PACE}
    if written["model"]["_component_"].endswith("llama3_2.llama3_2"):
        chosen |= {f"model.{key}": value for key, value in SHAPE.items() if key != "max_seq_len"}
        chosen |= {"model.max_seq_len": 512, "model.rope_base": 500000}
    for key, folder in (
        ("tokenizer.path", "model"),
        ("model.path", "model"),
        ("reference.model.path", "teacher"),
        ("dataset.transforms.highlight.scores", "scored/scores"),
    ):
        chosen |= {key: hub / folder} if has_key(written, key) else {}
    builder = inspect.signature(_located(written["model"]["_component_"])).parameters
    chosen |= {f"model.{key}": 0.1 for key in ("attn_dropout", "dropout") if key in builder}
    if has_key(written, "dataset.transforms.highlight.scores") and not (hub / "scored").exists():
        score(hub)
    return [f"{key}={value}" for key, value in chosen.items()]


def score(hub: Path) -> None:
    """What `rft` reads: the rows of the tiny runs scored by `shad`."""
    paths = [f"tokenizer.path={hub / 'model'}", f"model.path={hub / 'model'}"]
    short = ["dataset.max_rows=44", "at_least=8", "epochs=1", "shown_rows=0", "lr_scheduler=null"]
    assert run("shad", [*paths, *short, f"output_dir={hub / 'scored'}"]).code == 0


def _located(path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@dataclass
class Seen:
    """What a run did in this process: the exit code, and the rows and the loss of every step."""

    code: int = 0
    steps: list[tuple[int, list[int], float]] = field(default_factory=list)


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package may catch it."""

    def __init__(self) -> None:
        count("faults injected")


@contextmanager
def patched(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for where, name, value in changes:
            patch.setattr(where, name, value)
        yield


def run(name: str, arguments: list[str], *, config: Path | str | None = None, pictures: bool = False) -> Seen:
    """`tune run NAME --config NAME/quickstart ...` in this process, or with another config; the curves if asked for."""
    seen, train_step = Seen(), loop.train_step

    def watched(trainer, step, **options):
        measured = train_step(trainer, step, **options)
        ids = [row for batch in step.micro_batches for row in batch.ids]
        seen.steps.append((step.clock.step, ids, measured.get("loss", 0.0)))
        return measured

    argv = [name, "--config", str(config or f"{name}/quickstart"), *arguments]
    without_pictures = (
        (finish, "plot_run", lambda folder, path: path),  # half of the time of so small a run
        (finish, "report_html", lambda folder: ""),
    )
    with patched((sys, "argv", argv), (loop, "train_step", watched), *(() if pictures else without_pictures)):
        try:
            importlib.import_module(name).main()
        except SystemExit as end:
            seen.code = end.code if isinstance(end.code, int) else 1
    return seen


def same_steps(seen: Seen, undisturbed: Seen, *, after: int) -> bool:
    """Whether exactly the steps from `after` on were done, each with the rows and the loss it has undisturbed."""
    expected = undisturbed.steps[after:]
    ours, theirs = ({(step, row) for step, rows, _ in steps for row in rows} for steps in (seen.steps, expected))
    count("rows compared", len(theirs))
    count("rows lost", len(ours ^ theirs))
    return seen.steps == expected


def checkpoint(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step_{step:08d}"


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def saved_steps(out: Path) -> list[int]:
    """Steps of the checkpoints of a run, without those that were set aside."""
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step_*") if "." not in path.name)


def records(out: Path) -> list[dict[str, Any]]:
    """The log without what the clock on the wall decides."""
    kept = [
        {k: v for k, v in record.items() if k not in NOT_EXACT and not k.startswith("run_")} for record in read_log(out)
    ]
    return [record for record in kept if len(record) > 1]


def differences(one: Path, two: Path, *, step: int = TOTAL) -> list[str]:
    """Names of what differs bit for bit between the ends of two runs: weights, optimizer, generators, export, log."""
    found, compared = [], 0
    for name in ("model", "optimizer", "random"):
        left, right = (load_file(checkpoint(out, step) / f"{name}.safetensors") for out in (one, two))
        assert left.keys() == right.keys()
        found += [f"{name}:{key}" for key in left if not torch.equal(left[key], right[key])]
        compared += len(left)
    assert compared > 10
    states = [json.loads((checkpoint(out, step) / "state.json").read_text()) for out in (one, two)]
    found += [
        k
        for k in ("optimizer", "lr_scheduler", "step", "boundaries", "evaluations", "best")
        if states[0][k] != states[1][k]
    ]
    exports = [(out / "model" / "model.safetensors").read_bytes() for out in (one, two)]
    found += ["export"] if exports[0] != exports[1] else []
    return found + (["log"] if records(one) != records(two) else [])


def copied(reference: Path, out: Path, *, until: int) -> Path:
    """A run that died after its checkpoint at step `until`, cut from a whole run that kept all checkpoints."""
    count("faults injected")
    shutil.copytree(reference, out)
    for step in saved_steps(out):
        if step > until:
            shutil.rmtree(checkpoint(out, step))
    for left in ("finished.json", "model"):
        path = out / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return out
