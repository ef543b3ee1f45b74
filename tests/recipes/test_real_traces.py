"""`tune run bt_sft` on thinking traces of a real model (a look-alike where the data is not at hand)."""

from commands import must, tune
from lookalikes import shared_data

from cot_components.runs.log import read_log


def test_a_few_steps(hub, tmp_path):
    source = shared_data(tmp_path / "data") / "think_qwen3_small" / "messages.jsonl"
    printed = must(
        tune(
            "bt_sft",
            "--config",
            "bt_sft/quickstart",
            f"dataset.source={source}",
            f"tokenizer.path={hub / 'model'}",
            "tokenizer.max_seq_len=1536",
            "model.max_seq_len=2048",
            "dataset.too_long=cut_thought",
            "dataset.strict=false",
            "dataset.max_dropped=0.9",
            "dataset_val=0.02",
            "evaluation.source=generated",
            "evaluation.max_rows=2",
            "evaluation.max_new_tokens=4",
            "evaluate_every_n_steps=null",
            "epochs=1",
            "batch_size=1",
            "max_steps_per_epoch=4",
            "log_every_n_steps=1",
            "log_blurred_every=1",
            "output_dir=out",
            cwd=tmp_path,
        )
    )
    assert "rows read" in printed and "thought " in printed
    records = [record for record in read_log(tmp_path / "out") if "loss" in record]
    assert len(records) == 4
    for record in records:
        assert 0 < record["loss_thought"] < 10 and 0 < record["loss_blurred"] < 10 and 0 < record["loss_answer"] < 10
