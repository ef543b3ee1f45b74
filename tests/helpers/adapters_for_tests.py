"""Runs with adapters, a 4-bit base and 8-bit optimizer states, by config."""

from __future__ import annotations

from pathlib import Path

from models_for_tests import FROM_FOLDER

LORA = [
    "model.lora.rank=4",
    "model.lora.alpha=8",
    "model.lora.dropout=0.1",
]
KINDS = {
    "lora": LORA,
    "dora": [*LORA, "model.lora.dora=true"],
    "qlora": [*LORA, "model.lora.quantize=true"],
    "8bit": ["optimizer._component_=torchao.optim.AdamW8bit", "~optimizer.fused"],
}
STEPS = 6

WIDE = {"embed_dim": 256, "num_kv_heads": 4, "intermediate_dim": 512}
"""NF4 takes weights in blocks of 64 x 256, and every process whole ones."""


def arguments(hub: Path, out: Path, kind: str) -> list[str]:
    """Six steps of `bt_sft` on the checkpoint in `hub / 'model'`."""
    return [
        f"tokenizer.path={hub / 'model'}",
        *FROM_FOLDER,
        f"model.path={hub / 'model'}",
        *KINDS[kind],
        f"output_dir={out}",
        "dataset.max_rows=48",
        "dataset_val=null",
        "evaluation=null",
        "epochs=1",
        "batch_size=8",
        "lr_scheduler=null",
        "optimizer.lr=1e-2",
        "log_every_n_steps=1",
        "save_every_n_steps=1",
        "keep_checkpoints=100",
    ]
