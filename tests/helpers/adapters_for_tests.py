"""Runs with adapters, a 4-bit base, 8-bit optimizer states and bf16 weights, by config."""

from __future__ import annotations

from pathlib import Path

from models_for_tests import FROM_FOLDER

LORA = [
    "model.lora.rank=4",
    "model.lora.alpha=8",
    "model.lora.dropout=0.1",
]
EIGHT_BITS = ["optimizer._component_=torchao.optim.AdamW8bit", "~optimizer.fused"]
KINDS = {
    "lora": LORA,
    "dora": [*LORA, "model.lora.dora=true"],
    "qlora": [*LORA, "model.lora.quantize=true"],
    "8bit": EIGHT_BITS,
}
BF16 = {
    "bf16": [],
    "moments": ["optimizer_state=fp32_moments"],
    "weights": ["optimizer_state=fp32_weights"],
    "nearest": ["dtype=bf16_nearest"],
    "8bit_bf16": EIGHT_BITS,
    "lora_bf16": LORA,
    "qlora_bf16": KINDS["qlora"],
}
"""With `dtype=bf16`."""
STEPS = 6

WIDE = {"embed_dim": 256, "num_kv_heads": 4, "intermediate_dim": 512}
"""NF4 takes weights in blocks of 64 x 256, and every process whole ones."""


def arguments(hub: Path, out: Path, kind: str) -> list[str]:
    """Six steps of `bt_sft` on the checkpoint in `hub / 'model'`."""
    return [
        f"tokenizer.path={hub / 'model'}",
        *FROM_FOLDER,
        f"model.path={hub / 'model'}",
        *(KINDS[kind] if kind in KINDS else ["dtype=bf16", *BF16[kind]]),
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
