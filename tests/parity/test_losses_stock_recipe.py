"""`loss._component_=cot_components.losses.dft` in torchtune's own `full_finetune_single_device`: our step, exactly."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from commands import ROOT, must, tune
from safetensors.torch import load_file, save_file
from stock_parts import SIZES, VOCAB, Rows
from torchtune.models.convert_weights import hf_to_tune, tune_to_hf
from torchtune.models.llama3_2 import llama3_2

from cot_components import losses
from cot_components.models.adapter import adapt, head_of

LR = 50.0  # p of a random model is about 1 / 64, and so is the size of a DFT step


HEADS = {"num_heads": SIZES["num_heads"], "num_kv_heads": SIZES["num_kv_heads"], "dim": SIZES["embed_dim"]}


def hub_folder(folder: Path, model: torch.nn.Module) -> None:
    """Weights of the model as a stock checkpointer wants to find them."""
    folder.mkdir()
    save_file(tune_to_hf(model.state_dict(), **HEADS), folder / "model.safetensors")
    shape = {"num_attention_heads": HEADS["num_heads"], "num_key_value_heads": HEADS["num_kv_heads"]}
    (folder / "config.json").write_text(json.dumps({**shape, "hidden_size": HEADS["dim"]}))


CONFIG = """
output_dir: {out}
tokenizer: {{_component_: stock_parts.Tokenizer}}
dataset: {{_component_: stock_parts.Rows}}
model: {{_component_: torchtune.models.llama3_2.llama3_2}}
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: {start}
  checkpoint_files: [model.safetensors]
  recipe_checkpoint: null
  output_dir: {out}
  model_type: LLAMA3_2
loss: {{_component_: cot_components.losses.{loss}}}
optimizer: {{_component_: torch.optim.SGD, lr: {lr}}}
optimizer_in_bwd: false
batch_size: 2
gradient_accumulation_steps: 2
epochs: 1
max_steps_per_epoch: null
shuffle: false
seed: 0
device: cpu
dtype: fp32
compile: false
clip_grad_norm: null
resume_from_checkpoint: false
enable_activation_checkpointing: false
enable_activation_offloading: false
log_every_n_steps: 1
log_peak_memory_stats: false
metric_logger: {{_component_: torchtune.training.metric_logging.DiskLogger, log_dir: "{out}/logs"}}
"""


def stock_run(folder: Path, loss: str) -> subprocess.CompletedProcess[str]:
    """One step from the weights in `folder / "start"`."""
    config = yaml.safe_load(CONFIG.format(start=folder / "start", out=folder / "out", loss=loss, lr=LR))
    config["model"] |= {"vocab_size": VOCAB, **SIZES}
    (folder / "stock.yaml").write_text(yaml.safe_dump(config))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    return tune("full_finetune_single_device --config stock.yaml", cwd=folder, env={"PYTHONPATH": paths})


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
    must(stock_run(tmp_path, "dft"))

    loss, expected = our_step(model, losses.dft())
    (log,) = (tmp_path / "out" / "logs").glob("*.txt")
    logged = [float(value) for value in re.findall(r"loss:([\d.e+-]+)", log.read_text())]
    assert logged == pytest.approx([loss], rel=1e-5)
    (saved,) = (tmp_path / "out" / "epoch_0").glob("*.safetensors")
    found = hf_to_tune(load_file(saved), **HEADS)
    largest = max(float((expected[name] - before[name]).abs().max()) for name in expected)
    worst = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    assert largest > 1e-3 and worst < 1e-4 * largest, (worst, largest)
