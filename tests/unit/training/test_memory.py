"""The arithmetic of docs/scaling.md against what two processes hold, and against what a layer keeps."""

import os
import sys

import pytest
import torch
from commands import ROOT, must, run
from models_for_tests import build, random_tokens

from cot_components.tools.memory import memory_per_gpu, sizes, table


def of(model, **settings):
    return memory_per_gpu(model, **{"tokens": 64, "checkpoint_activations": False, "bytes_per_number": 4} | settings)


def test_states_are_what_two_processes_hold():
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    printed = must(run(*command, ROOT / "tests" / "helpers" / "memory_fsdp_worker.py", cwd=ROOT, env=environment))
    assert int(printed.split()[-1]) == of(build("llama_untied"), world_size=2).states


def test_one_process_holds_everything():
    model = build("llama_tied")
    memory = of(model, world_size=1)
    assert memory.states == 4 * 4 * sum(p.numel() for p in model.parameters()) and memory.gathered == 0
    assert memory.total == sum(memory)


def test_activations_are_what_the_layers_keep():
    """Every stretch of memory once; rotations, softmax statistics and norms keep a little more than is counted."""
    model, tokens = build("llama_untied").train(), random_tokens(2, 32)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    hidden = model.tok_embeddings(tokens)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer in model.layers:
            hidden = layer(hidden)
    found = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in parameters)
    assert of(model, world_size=1).activations == pytest.approx(found, rel=0.25)


def test_checkpointing_keeps_one_layer_and_the_inputs():
    model = build("llama_tied")
    all_layers = of(model, world_size=1).activations
    again = of(model, world_size=1, checkpoint_activations=True).activations
    assert again == all_layers // 2 + 64 * 2 * 32 * 4


def test_the_page_shows_this_table():
    assert table(sizes()) in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
