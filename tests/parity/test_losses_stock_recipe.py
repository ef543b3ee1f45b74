"""`loss._component_=cot_components.losses.dft` in torchtune's own `full_finetune_single_device`: our step, exactly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from losses_stock_parts import SIZES, VOCAB, Rows
from safetensors.torch import load_file, save_file
from torchtune.models.convert_weights import hf_to_tune, tune_to_hf
from torchtune.models.llama3_2 import llama3_2

from cot_components import losses
from cot_components.models.adapter import adapt, head_of

LR = 50.0  # p of a random model is about 1 / 64, and so is the size of a DFT step


def hub_folder(folder: Path, model: torch.nn.Module) -> None:
    """Weights of the model as a stock checkpointer wants to find them."""
    folder.mkdir()
    heads = {"num_heads": SIZES["num_heads"], "num_kv_heads": SIZES["num_kv_heads"], "dim": SIZES["embed_dim"]}
    save_file(tune_to_hf(model.state_dict(), **heads), folder / "model.safetensors")
    shape = {"num_attention_heads": heads["num_heads"], "num_key_value_heads": heads["num_kv_heads"]}
    (folder / "config.json").write_text(json.dumps({**shape, "hidden_size": heads["dim"]}))


def config(start: Path, out: Path, loss: str) -> dict[str, Any]:
    parts = "losses_stock_parts"
    return {
        "output_dir": str(out),
        "tokenizer": {"_component_": f"{parts}.Tokenizer"},
        "dataset": {"_component_": f"{parts}.Rows"},
        "model": {"_component_": "torchtune.models.llama3_2.llama3_2", "vocab_size": VOCAB, **SIZES},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(start),
            "checkpoint_files": ["model.safetensors"],
            "recipe_checkpoint": None,
            "output_dir": str(out),
            "model_type": "LLAMA3_2",
        },
        "loss": {"_component_": loss},
        "optimizer": {"_component_": "torch.optim.SGD", "lr": LR},
        "optimizer_in_bwd": False,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "shuffle": False,
        "seed": 0,
        "device": "cpu",
        "dtype": "fp32",
        "compile": False,
        "clip_grad_norm": None,
        "resume_from_checkpoint": False,
        "enable_activation_checkpointing": False,
        "enable_activation_offloading": False,
        "log_every_n_steps": 1,
        "log_peak_memory_stats": False,
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": str(out / "logs")},
    }


def tune_run(settings: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "stock.yaml"
    path.write_text(yaml.safe_dump(settings))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests' / 'helpers'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torchtune._cli.tune", "run", "full_finetune_single_device", "--config", str(path)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def our_step(model: torch.nn.Module, loss: losses.Loss) -> tuple[float, dict[str, torch.Tensor]]:
    """One SGD step on all four rows at once, through hidden states and the fused loss."""
    adapt(model)
    rows = Rows().rows
    tokens = torch.zeros(len(rows), max(len(row["tokens"]) for row in rows), dtype=torch.int64)
    labels = torch.full_like(tokens, -100)
    for i, row in enumerate(rows):
        tokens[i, : len(row["tokens"])] = torch.tensor(row["tokens"])
        labels[i, : len(row["tokens"]) - 1] = torch.tensor(row["labels"][1:])
    out = loss.fused(model(tokens).flatten(0, 1), head_of(model), labels.flatten())
    mean = out.objective / (labels != -100).sum()
    mean.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= LR * parameter.grad
    return float(mean.detach()), model.state_dict()


def test_a_stock_recipe_takes_the_step_that_ours_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = llama3_2(vocab_size=VOCAB, **SIZES)
    hub_folder(tmp_path / "start", model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = tune_run(config(tmp_path / "start", tmp_path / "out", "cot_components.losses.dft"), tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]

    loss, expected = our_step(model, losses.dft())
    (log,) = (tmp_path / "out" / "logs").glob("*.txt")
    logged = [float(value) for value in re.findall(r"loss:([\d.e+-]+)", log.read_text())]
    assert logged == pytest.approx([loss], rel=1e-5)
    (saved,) = (tmp_path / "out" / "epoch_0").glob("*.safetensors")
    heads = {"num_heads": SIZES["num_heads"], "num_kv_heads": SIZES["num_kv_heads"], "dim": SIZES["embed_dim"]}
    found = hf_to_tune(load_file(saved), **heads)
    largest = max(float((expected[name] - before[name]).abs().max()) for name in expected)
    worst = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    assert largest > 1e-3 and worst < 1e-4 * largest, (worst, largest)


def test_a_preset_that_needs_a_reference_says_so_in_one_sentence(tmp_path: Path) -> None:
    hub_folder(tmp_path / "start", llama3_2(vocab_size=VOCAB, **SIZES))
    result = tune_run(config(tmp_path / "start", tmp_path / "out", "cot_components.losses.asft"), tmp_path)
    assert result.returncode != 0
    sentence = (
        "asft needs a reference model, as (hidden, head) or TopK; (logits, labels) alone cannot give it: use loss.fused"
    )
    assert sentence in result.stderr
