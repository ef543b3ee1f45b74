"""A 4-bit base and 8-bit optimizer states divided among two processes: as with one; resumed by two, and by one."""

from __future__ import annotations

import pytest
import torch
from commands import must, tune
from same_run import compare_weights
from tiny_models import STEPS, adapter_run
from tiny_runs import copied, differences, records, run

from cot_components.errors import UserError
from cot_components.training.distributed import World, shard
from cot_components.training.resume.compressed import cut_to, numbers_of, parts_of

EAGER = {"TORCHDYNAMO_DISABLE": "1"}  # torchao compiles its optimizer step, which takes a minute on a CPU


# A share of a weight that is too small for 8 bits stays in 32, so one process rounds what two do not.
# In bf16 sums of other parts round differently: where a gradient is near 0, a weight may go the other way, at lr 1e-2
# in each of 6 steps.
@pytest.mark.parametrize(
    ("kind", "loss", "largest", "mean"),
    [("qlora", 2e-4, 1e-4, 1e-6), ("8bit", 2e-4, 1e-2, 1e-3), ("weights", 5e-3, 6e-2, 1e-3)],
)
def test_two_processes_are_one(hub, wide, tmp_path, kind, loss, largest, mean):
    base = (wide if kind == "qlora" else hub) / "model"
    words = [*adapter_run(base, kind), *(["model.lora.dropout=0.0"] if kind == "qlora" else [])]
    one, two, again, alone = (tmp_path / name for name in ("one", "two", "again", "alone"))

    def with_one(out):
        with torch.compiler.set_stance("force_eager"):
            assert run("bt_sft", [*words, f"output_dir={out}"]).code == 0

    def with_two(out):
        typed = "--nproc_per_node 2 bt_sft --config bt_sft/quickstart batch_size=4"
        kept = [word for word in words if word != "batch_size=8"]
        return must(tune(typed, *kept, f"output_dir={out}", cwd=tmp_path, env=EAGER))

    with_one(one)
    with_two(two)
    assert "3 steps done" in with_two(copied(two, again, until=3))
    with_one(copied(two, alone, until=3))
    assert differences(two, again, step=STEPS) == []  # the same number of processes: bit for bit
    losses = [record["loss"] for record in records(one)]
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.05
    for other in (two, alone):
        assert [record["loss"] for record in records(other)] == pytest.approx(losses, rel=loss)
        compare_weights(one, other, largest=largest, mean=mean)


def test_4_bit_weights_that_do_not_divide_are_a_sentence():
    from torchtune.models.llama3_2 import lora_llama3_2

    shape = {"num_layers": 1, "num_heads": 4, "num_kv_heads": 4, "embed_dim": 128, "max_seq_len": 64}
    adapters = {"lora_attn_modules": ["q_proj"], "lora_rank": 4, "lora_alpha": 8, "quantize_base": True}
    model = lora_llama3_2(vocab_size=384, intermediate_dim=128, **shape, **adapters)
    with pytest.raises(UserError, match=r"4-bit weight layers\.0\.attn\.q_proj\.weight has 16,384 numbers and cannot"):
        shard(model, World(0, 2))


def test_blocks_across_the_ends_of_a_share_are_compressed_again():
    """The share of another number of processes: bit for bit where it holds whole blocks, else by its numbers."""
    from torchao.optim.subclass_8bit import OptimState8bit

    whole = OptimState8bit.zeros((16, 384), signed=True)
    whole.copy_(torch.randn(16, 384, generator=torch.Generator().manual_seed(0)))
    parts = parts_of(whole)
    assert torch.equal(numbers_of(parts), whole.dequantize())
    share = OptimState8bit.zeros((8, 384), signed=True)
    exact = cut_to(parts, share, 8, 16)
    assert exact is not None and torch.equal(exact.dequantize(), whole.dequantize()[8:])
    assert cut_to(parts, share, 3, 11) is None and cut_to(parts, torch.zeros(8, 384), 8, 16) is None
    again = share.copy_(numbers_of(parts)[3:11]).dequantize()
    assert 0 < (again - whole.dequantize()[3:11]).abs().max() < 0.1
