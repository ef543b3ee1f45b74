"""What a run says about its speed, and the arithmetic of docs/scaling.md against what processes and layers hold."""

import os
import sys

import pytest
import torch
import torch.nn.functional as F
from commands import ROOT, must, run
from rows import random_rows
from tiny_models import VOCABULARY, build, random_tokens
from torch.utils.flop_counter import FlopCounterMode
from torchtune.modules.peft import get_adapter_params, set_trainable_params

from cot_components.data.rows.batches import pack, pad
from cot_components.models.adapter import adapt, hidden_states
from cot_components.tools.memory import memory_per_gpu, sizes, table
from cot_components.trainable import Half, Only, weights_of
from cot_components.training import throughput
from cot_components.training.throughput import ModelFlops, SpeedMeter, sentence

FLAT = random_rows(6, vocabulary=VOCABULARY).flat(range(6))


@pytest.mark.parametrize("family", ["llama_tied", "llama_untied", "qwen_tied"])
def test_the_formula_is_what_torch_counts(family):
    """On one row with a dense loss; torch does not count a CPU's attention kernel, and the fused loss adds in place."""
    flat = random_rows(6, vocabulary=VOCABULARY).flat([3])
    model, batch = adapt(build(family)), pack(flat, pad_id=0, num_tokens=len(flat.tokens))
    with FlopCounterMode(display=False) as counter:
        logits = model.output(hidden_states(model, batch, batch.rows)[batch.rows])
        F.cross_entropy(logits, batch.labels.flatten()[batch.rows]).backward()
    ours = ModelFlops.of(model).total(tokens=len(flat.tokens), seen=0, supervised=batch.num_supervised)
    assert counter.get_total_flops() == ours


def test_attention_is_two_products_of_the_pairs_it_keeps():
    """Forward 2 * 2 FLOPs per pair and channel, backward twice that."""
    assert ModelFlops.of(build("llama_tied")).per_seen_token == 3 * 2 * 2 * 32 * 2


def test_frozen_weights_cost_a_third_less():
    model, full = build("llama_lora"), ModelFlops.of(build("llama_untied"))
    set_trainable_params(model, get_adapter_params(model))
    adapters = sum(p.numel() for name, p in model.named_parameters() if "lora" in name and "layers" in name)
    lora = ModelFlops.of(model)
    assert lora.per_token == pytest.approx(full.per_token * 4 / 6 + 6 * adapters)
    feed_forward = 3 * 32 * 48  # of the last layer
    supervised = 6 * (feed_forward + 32 * VOCABULARY)
    assert full.per_supervised_token == ModelFlops.of(build("llama_tied")).per_supervised_token == supervised
    assert lora.per_supervised_token == 4 * (feed_forward + 32 * VOCABULARY) + 6 * 4 * (32 + VOCABULARY)


def test_seen_tokens():
    expected = sum(length * (length + 1) // 2 for length in FLAT.lengths.tolist())
    assert pad(FLAT, pad_id=0).seen_tokens == pack(FLAT, pad_id=0, num_tokens=400).seen_tokens == expected


def step(seconds=2.0):
    rates = {"tokens_per_second": 100.0, "loader_wait_fraction": 0.25}
    return {"step_seconds": seconds, "supervised_tokens": 50.0, "context_tokens": 10.0, **rates}


def test_the_summary(monkeypatch):
    model, meter = build("llama_tied"), SpeedMeter()
    for measured in [step(100.0)] * throughput.WARM_UP + [{"skipped": 1.0}, step(), step(4.0)]:
        meter.add(measured)
    found = meter.result(model, torch.device("cpu"), world_size=2)
    flops = ModelFlops.of(model).total(tokens=600, seen=6000, supervised=100) / 6 / 2
    assert found["run_tokens_per_second"] == 100 and found["run_supervised_tokens_per_second"] == pytest.approx(100 / 6)
    assert found["run_loader_wait_fraction"] == 0.25 and found["run_tflops"] == pytest.approx(flops / 1e12)
    assert "run_mfu" not in found and 0.1 < found["run_peak_memory_gib"] < 100
    assert "MFU" not in sentence(found) and "100 tokens/s, 17 of them supervised" in sentence(found)

    monkeypatch.setattr(throughput, "peak_flops", lambda device: 2 * flops)
    found = meter.result(model, torch.device("cpu"), world_size=2)
    assert found["run_mfu"] == pytest.approx(0.5) and "50.0% MFU" in sentence(found)


def test_known_devices(monkeypatch):
    assert throughput.peak_flops(torch.device("cpu")) is None
    for name, peak in {"NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12, "Something": None}.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert throughput.peak_flops(torch.device("cuda")) == peak


def test_a_run_of_the_warm_up_alone_says_nothing():
    meter = SpeedMeter()
    for _ in range(throughput.WARM_UP):
        meter.add(step())
    assert meter.result(build("llama_tied"), torch.device("cpu")) == {}


def of(model, **settings):
    return memory_per_gpu(model, **{"tokens": 64, "checkpoint_activations": False, "bytes_per_number": 4} | settings)


def test_states_are_what_two_processes_hold():
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    printed = must(run(*command, ROOT / "tests" / "helpers" / "memory_worker.py", cwd=ROOT, env=environment))
    assert int(printed.split()[-1]) == of(build("llama_untied"), world_size=2).states


def test_one_process_holds_everything():
    model = build("llama_tied")
    memory = of(model, world_size=1)
    assert memory.states == 4 * 4 * sum(p.numel() for p in model.parameters()) and memory.gathered == 0
    assert memory.total == sum(memory)


@pytest.mark.parametrize("layers", [[0, 0], [1, 1]])
def test_weights_that_rest_have_neither_gradients_nor_moments(layers):
    """As many bytes as a step leaves behind, embedding and head at rest."""
    model, names = build("llama_untied"), Only(layers=layers).choose(weights_of(build("llama_untied")), 0)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(random_tokens(2, 32)).sum().backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    memory, full = of(model, world_size=1), of(build("llama_untied"), world_size=1)
    assert memory.states == sum(tensor.nbytes for tensor in [*model.parameters(), *gradients, *moments])
    assert full.loss - memory.loss == 8 * model.output.weight.numel()
    halves = [of(m, world_size=8, bytes_per_number=2) for m in (sizes()["1B"], sizes(Half())["1B"])]
    assert halves[1].states < 0.75 * halves[0].states and halves[1].gathered < halves[0].gathered


@pytest.mark.parametrize(
    ("state", "kept", "copied"), [("bf16", 8, 16), ("fp32_moments", 12, 8), ("fp32_weights", 16, 4)]
)
def test_what_bf16_weights_keep_in_fp32(state, kept, copied):
    """`tests/unit/training/test_exact_updates.py` counts the bytes of the states themselves."""
    model, settings = sizes()["1B"], {"bytes_per_number": 2, "optimizer_state": state}
    memory = of(model, world_size=1, tokens=16_384, checkpoint_activations=True, **settings)
    assert memory.states == kept * 1_235_814_400 and memory.update == copied * 128_256 * 2048
    few = of(model, world_size=1, tokens=1, **settings)
    assert few.total == few.states + max(few.update, few.activations + few.loss)
    assert memory.smallest_gpu == {"bf16": 24, "fp32_moments": 24, "fp32_weights": 40}[state]
    assert memory._replace(states=2**40).smallest_gpu is None


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
