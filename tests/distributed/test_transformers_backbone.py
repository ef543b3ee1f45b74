"""A model of `transformers` divided among two processes: losses, updates and the export are those of one."""

import pytest
from commands import must, tune
from families import write_case
from same_run import compare_records, compare_weights
from tiny_runs import records, run

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer

SHORT = """
dataset.source=generated dataset.max_rows=26 dataset.max_seq_len=400 dataset_val=null epochs=1 optimizer.lr=1e-3
evaluation.max_rows=3 evaluation.max_new_tokens=4 lr_scheduler=null device=cpu dtype=fp32 log_every_n_steps=1
gradient_accumulation_steps=2 packed_tokens=null
"""
AGAINST_ITS_BASE = [
    "model.lora={rank: 4, alpha: 8}",
    "loss._component_=cot_components.losses.asft",
    "reference._component_=cot_components.models.AdaptersOff",
]


@pytest.mark.parametrize("words", [[], AGAINST_ITS_BASE], ids=["all weights", "adapters against their base"])
def test_two_processes_are_one(tmp_path, words):
    """Gemma's head is its embedding; the last step has two rows, so one of the four micro-batches is empty."""
    base = tmp_path / "base"
    write_case(base, "gemma3", vocab_size=384, max_position_embeddings=512)
    write_byte_tokenizer(base)
    words = [f"model.path={base}", *SHORT.split(), *words]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("bt_sft", [*words, "batch_size=4", f"output_dir={one}"], config="bt_sft/any").code == 0
    typed = "--nproc_per_node 2 bt_sft --config bt_sft/any batch_size=2"
    said = must(tune(typed, *words, f"output_dir={two}", cwd=tmp_path))
    assert said.count("transformers backbone") == 1
    compare_records(records(one), records(two))
    assert len([record for record in records(one) if "objective" in record]) == 4
    compare_weights(one, two)
