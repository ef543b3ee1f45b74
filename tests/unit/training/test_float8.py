"""float8 products: refused in one sentence where they cannot run, and rounded where torchao emulates them."""

import pytest
import torch
from commands import tune, user_error
from models_for_tests import VOCABULARY, build
from rows import random_rows
from torchao.float8.float8_linear import Float8Linear
from torchtune.models.llama3_2 import llama3_2

from cot_components.data.rows.batches import pad
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.training import setup
from cot_components.training.distributed import World
from cot_components.training.float8 import check_float8, convert_to_float8

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
