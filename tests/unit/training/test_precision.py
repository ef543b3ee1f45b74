"""Number formats: what a recipe's keys mean on which device, the warning of rounding to the nearest, the export."""

import os
import sys

import pytest
import torch
from commands import ROOT, must, run
from models_for_tests import VOCABULARY, build, random_tokens
from transformers import AutoModelForCausalLM

from cot_components.errors import UserError
from cot_components.models.adapter import adapt, logits
from cot_components.models.export import save_pretrained
from cot_components.models.load import start_from_scratch
from cot_components.runs.folder import Earlier
from cot_components.training import precision
from cot_components.training.batching import refuse_other_plan
from cot_components.training.distributed import World
from cot_components.training.exact_updates import StochasticRounding
from cot_components.training.precision import Precision, choose_precision, movable_share, with_exact_updates

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def chosen(device=CPU, said=None, **config):
    return choose_precision({"seed": 0, **config}, device, [].append if said is None else said.append)


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "bf16_nearest"])
def test_a_cpu_without_bf16_units_multiplies_in_fp32_and_says_so(monkeypatch, units, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units, "amx_bf16": False})
    said = []
    here = chosen(said=said, dtype=dtype)
    falls_back = dtype != "fp32" and not units
    assert here.dtype == ("fp32" if falls_back else dtype) and len(said) == falls_back
    assert here.export == ("fp32" if dtype == "fp32" else "bf16")  # whatever the products
    assert all("avx512_bf16" in line for line in said)
    assert chosen(GPU, dtype=dtype).dtype == dtype


def test_a_resume_under_other_products_is_refused():
    earlier = Earlier(None, {"plan": {"products": "fp32"}})
    refuse_other_plan(earlier, {"products": "fp32"})
    with pytest.raises(UserError, match=r"resume: the number format .* was fp32, now it is bf16"):
        refuse_other_plan(earlier, {"products": "bf16"})


@pytest.mark.parametrize("key", ["dtype", "optimizer_state", "export_dtype"])
def test_formats_that_there_are_not(key):
    with pytest.raises(UserError, match=f"^{key} must be one of .*, got 'fp16'$"):
        chosen(**{"dtype": "bf16", key: "fp16"})


def test_which_optimizer_updates_what():
    model = torch.nn.Linear(2, 2)
    for dtype, wrapped in (("fp32", False), ("bf16", True), ("bf16_nearest", False)):
        optimizer = with_exact_updates(torch.optim.SGD(model.parameters()), model, Precision(dtype))
        assert isinstance(optimizer, StochasticRounding) is wrapped


def test_the_share_of_weights_that_a_rate_moves():
    """Half the gap to the next bf16 number is 2**-8 of a power of two; frozen weights do not count."""
    weights = [torch.nn.Parameter(torch.tensor(v, dtype=torch.bfloat16)) for v in ([1.0, 2.0, -4.0, 0.5], [1.0])]
    weights[1].requires_grad_(False)
    for rate, share in ((2.0**-10, 0.0), (2.0**-9, 0.25), (2.0**-8, 0.5), (2.0**-7, 0.75), (2.0**-6, 1.0)):
        optimizer = torch.optim.AdamW(weights, lr=rate)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)  # a warm-up begins with nothing
        assert movable_share(optimizer, World()) == share


def test_rounding_to_the_nearest_warns(capsys):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.tensor([1.0, 2.0]).bfloat16())], lr=2.0**-8)
    for dtype in ("bf16", "fp32", "bf16_nearest"):
        precision.warn_of_rounding(optimizer, Precision(dtype), World())
    assert [
        line.startswith("dtype: bf16_nearest") and "50.0 %" in line for line in capsys.readouterr().out.splitlines()
    ] == [True]


def test_updates_of_two_processes_are_those_of_one():
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])}
    printed = must(run(*command, ROOT / "tests" / "helpers" / "precision_fsdp_worker.py", cwd=ROOT, env=environment))
    assert printed.split()[-6:] == ["bf16", "True", "fp32_moments", "True", "fp32_weights", "True"]


def test_an_export_keeps_the_mean():
    """All weights lie 0.3 of a gap above a bf16 number: rounded to the nearest they would lose it; exact ones stay."""
    value = torch.full((1 << 20,), 1 + 0.3 * 2**-7)
    bf16 = Precision(export="bf16")
    exported = bf16.exported("w", value, step=3)
    assert exported.dtype == torch.bfloat16
    assert float(exported.double().mean()) == pytest.approx(1 + 0.3 * 2**-7, abs=2e-5)
    assert torch.equal(exported, bf16.exported("w", value, step=3))
    assert not torch.equal(exported, bf16.exported("w", value, step=4))
    assert torch.equal(bf16.exported("w", exported, step=9), exported)
    assert torch.equal(Precision(export="fp32").exported("w", value, step=3), value)
    assert bf16.exported("ids", torch.arange(3), step=3).dtype == torch.int64


@pytest.mark.parametrize(("export", "largest"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_transformers_loads_the_export(tmp_path, export, largest):
    """In the number format that was asked for; the mean of 2,000 losses is that of the trained weights, within 1e-3."""
    torch.manual_seed(0)
    model = adapt(start_from_scratch(build("llama_tied"))).eval()
    folder = tmp_path / "out"
    made = Precision(export=export)
    save_pretrained(model, folder, rounded=lambda name, value: made.exported(name, value, step=1))
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert theirs.dtype == (torch.float32 if export == "fp32" else torch.bfloat16)
    tokens = random_tokens(32, 64)
    assert int(tokens.max()) < VOCABULARY
    with torch.no_grad():
        ours, read = logits(model, tokens), theirs.float()(tokens).logits
    assert float((ours - read).abs().max()) < largest
    losses = [torch.nn.functional.cross_entropy(z[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()) for z in (ours, read)]
    assert float(losses[1]) == pytest.approx(float(losses[0]), abs=1e-3)
