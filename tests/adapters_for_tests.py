"""Runs with adapters, a 4-bit base and 8-bit optimizer states, by config."""

from __future__ import annotations

from pathlib import Path

from models_for_tests import TINY_OVERRIDES

LORA = [
    "model._component_=torchtune.models.llama3_2.lora_llama3_2",
    "model.lora_attn_modules=[q_proj,k_proj,v_proj,output_proj]",
    "model.apply_lora_to_mlp=true",
    "model.lora_rank=4",
    "model.lora_alpha=8",
    "model.lora_dropout=0.1",
]
KINDS = {
    "lora": LORA,
    "dora": [*LORA, "model.use_dora=true"],
    "qlora": [*LORA, "model.quantize_base=true"],
    "8bit": ["optimizer._component_=torchao.optim.AdamW8bit", "~optimizer.fused"],
}
STEPS = 6

WIDE = {"embed_dim": 256, "num_kv_heads": 4, "intermediate_dim": 512}
"""NF4 takes weights in blocks of 64 x 256, and every process whole ones."""


def arguments(hub: Path, out: Path, kind: str) -> list[str]:
    """Six steps of `bt_sft` on the checkpoint in `hub / 'model'`."""
    wider = [f"model.{name}={value}" for name, value in WIDE.items()] if kind == "qlora" else []
    return [
        f"tokenizer.path={hub / 'model'}",
        "checkpointer._component_=torchtune.training.FullModelHFCheckpointer",
        f"checkpointer.checkpoint_dir={hub / 'model'}",
        "checkpointer.checkpoint_files=[model.safetensors]",
        "checkpointer.model_type=LLAMA3_2",
        f"checkpointer.output_dir={out}",
        *TINY_OVERRIDES,
        *KINDS[kind],
        *wider,
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
