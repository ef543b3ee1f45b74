"""Compiled layers, and float8 products: refused where they cannot run, rounded where torchao emulates them."""

import numpy as np
import pytest
import torch
from commands import tune, user_error
from models_for_tests import VOCABULARY, build
from rows import random_rows
from torch._dynamo.utils import counters
from torchao.float8.float8_linear import Float8Linear
from torchtune.models.llama3_2 import llama3_2

from cot_components.data.rows.batches import Batches, pad
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.training import setup
from cot_components.training.distributed import World
from cot_components.training.float8 import check_float8, convert_to_float8
from cot_components.training.setup import prepare_model

ROWS = random_rows(60, vocabulary=VOCABULARY)
LENGTHS = np.array([len(row.tokens) for row in ROWS.rows])


@pytest.fixture(autouse=True)
def _graphs_without_kernels(monkeypatch):
    """What is counted are graphs; making machine code of them would take minutes."""
    monkeypatch.setenv("TORCH_COMPILE_BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("packed_tokens", [128, None])
def test_nothing_is_compiled_after_warm_up(packed_tokens):
    model, reference = adapt(build("llama_tied")), adapt(build("llama_tied"))
    prepare_model(model, World(), compile=True, enable_activation_checkpointing=False)
    plans = Plans(LENGTHS, batch_size=4, packed_tokens=packed_tokens, seed=1)
    batches = [batch for plan in plans for batch in Batches(ROWS, {}, 0, packed_tokens=packed_tokens)[plan][1]]
    graphs, widths = [], {batch.tokens.shape[1] for batch in batches}
    for batch in batches:
        out = model.loss(sft().fused, batch)
        out.objective.backward()
        with torch.no_grad():
            assert torch.allclose(out.nll, reference.loss(sft().fused, batch).nll, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(graphs) > 8 and graphs[0] > 0
    if packed_tokens is None:
        # The second length makes lengths a variable, once for the last layer and once for all others.
        assert len(widths) > 4 and graphs[-1] == graphs[1] <= 2 * graphs[0]
    else:
        assert len({batch.documents for batch in batches}) > 8 and graphs[-1] == graphs[0]


def test_the_row_function_is_compiled_once():
    """All chunks of a step but the last have the same shape; the last of every step has another."""
    loss = sft(compile_rows=True, chunk_rows=16)
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(VOCABULARY, 8, generator=generator)
    graphs = []
    for size in (40, 43, 61, 50, 37):
        hidden = torch.randn(size, 8, generator=generator, requires_grad=True)
        labels = torch.randint(0, VOCABULARY, (size,), generator=generator)
        loss.fused(hidden, head, labels).objective.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[-1] == graphs[1]


BATCH = pad(random_rows(4, vocabulary=VOCABULARY).flat(range(4)), pad_id=0)


def model():
    torch.manual_seed(0)
    return adapt(llama3_2(VOCABULARY, 2, 4, 2, 32, 64, intermediate_dim=48).to(torch.bfloat16))


def trained(net):
    out = net.loss(sft().fused, BATCH)
    out.objective.backward()
    return out.loss / BATCH.num_supervised, {name: p.grad for name, p in net.named_parameters()}


def test_layers_are_rounded_and_nothing_else():
    plain, rounded = model(), model()
    convert_to_float8(rounded, emulate=True)
    swapped = {name for name, module in rounded.named_modules() if isinstance(module, Float8Linear)}
    projections = ("q_proj", "k_proj", "v_proj", "output_proj")
    of_attention = {f"layers.{i}.attn.{name}" for i in range(2) for name in projections}
    assert swapped == of_attention | {f"layers.0.mlp.{name}" for name in ("w1", "w2", "w3")}
    assert list(rounded.state_dict()) == list(plain.state_dict())
    (loss, gradients), (loss8, gradients8) = trained(plain), trained(rounded)
    assert loss8 != loss and loss8.item() == pytest.approx(loss.item(), rel=0.02)
    together, together8 = (torch.cat([g.flatten() for g in each.values()]).float() for each in (gradients, gradients8))
    assert torch.cosine_similarity(together, together8, dim=0) > 0.98


def test_the_recipe_converts(monkeypatch):
    asked = []
    monkeypatch.setattr(setup, "convert_to_float8", asked.append)
    net = model()
    for float8 in (False, True):
        setup.prepare_model(net, World(), compile=False, enable_activation_checkpointing=False, float8=float8)
    assert asked == [net]


def test_what_cannot_be_converted():
    with pytest.raises(UserError, match="LoRA"):
        convert_to_float8(adapt(build("llama_lora")), emulate=True)
    odd = adapt(llama3_2(VOCABULARY, 1, 2, 2, 24, 64, intermediate_dim=48))
    with pytest.raises(UserError, match="multiples of 16"):
        convert_to_float8(odd, emulate=True)


def test_where_it_can_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    check_float8(True, device=torch.device("cuda"), dtype="bf16", compile=True)
    check_float8(False, device=torch.device("cpu"), dtype="fp32", compile=False)


def test_a_cpu_refuses_before_anything_is_read(tmp_path):
    overrides = ["float8=true", "device=cpu", f"output_dir={tmp_path / 'run'}"]
    assert "float8" in user_error(tune("bt_sft", "--config", "bt_sft/quickstart", *overrides, cwd=tmp_path))
    assert not (tmp_path / "run").exists()
