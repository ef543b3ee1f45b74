"""Tiny decoders of every family, random tokens for them, and the overrides that choose models and adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cot_components.models.tiny import SHAPE

VOCABULARY = 60

TINY_OVERRIDES = [
    "model._component_=torchtune.models.llama3_2.llama3_2",
    "model.vocab_size=384",
    "model.rope_base=500000",
    *(f"model.{name}={value}" for name, value in SHAPE.items()),
]
"""What makes any config's model the one of `cot_components.models.tiny`, from random weights."""

SIZES = ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "embed_dim", "intermediate_dim", "rope_base")
FROM_FOLDER = ["model=cot_components.models.from_folder", *(f"~model.{size}" for size in SIZES)]
"""What makes the model of `bt_sft/quickstart` one from `model.path`."""

LORA = ["model.lora.rank=4", "model.lora.alpha=8", "model.lora.dropout=0.1"]
EIGHT_BITS = ["optimizer._component_=torchao.optim.AdamW8bit", "~optimizer.fused"]
ADAPTERS = {
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
    "qlora_bf16": ADAPTERS["qlora"],
}
"""With `dtype=bf16`."""
WIDE = {"embed_dim": 256, "num_kv_heads": 4, "intermediate_dim": 512}
"""NF4 takes weights in blocks of 64 x 256, and every process whole ones."""
STEPS = 6
SIX_STEPS = """
dataset.max_rows=48 dataset_val=null evaluation=null epochs=1 batch_size=8 lr_scheduler=null optimizer.lr=1e-2
log_every_n_steps=1 save_every_n_steps=1 keep_checkpoints=100
"""


def adapter_run(base: Path, kind: str) -> list[str]:
    """Six steps of `bt_sft` with one of `ADAPTERS` or `BF16` on the checkpoint in `base`."""
    chosen = ADAPTERS[kind] if kind in ADAPTERS else ["dtype=bf16", *BF16[kind]]
    return [*FROM_FOLDER, f"tokenizer.path={base}", f"model.path={base}", *chosen, *SIX_STEPS.split()]


def llama_tied() -> Any:
    from torchtune.models.llama3_2 import llama3_2

    return llama3_2(VOCABULARY, 2, 4, 2, 32, 64, intermediate_dim=48)


def llama_untied(max_seq_len: int = 64) -> Any:
    from torchtune.models.llama3_2 import llama3_2

    return llama3_2(VOCABULARY, 2, 4, 2, 32, max_seq_len, intermediate_dim=48, tie_word_embeddings=False)


def qwen_tied() -> Any:
    from torchtune.models.qwen2 import qwen2

    return qwen2(VOCABULARY, 2, 4, 2, 32, 48, 64, tie_word_embeddings=True)


def llama_lora(attn_dropout: float = 0.0) -> Any:
    from torchtune.models.llama3 import lora_llama3

    model = lora_llama3(
        lora_attn_modules=["q_proj", "v_proj"],
        apply_lora_to_output=True,
        vocab_size=VOCABULARY,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=32,
        max_seq_len=64,
        intermediate_dim=48,
        lora_rank=4,
        lora_alpha=8,
        attn_dropout=attn_dropout,
    )
    torch.nn.init.normal_(model.output.lora_b.weight)
    return model


FAMILIES: dict[str, Callable[..., Any]] = {
    "llama_tied": llama_tied,
    "llama_untied": llama_untied,
    "qwen_tied": qwen_tied,
    "llama_lora": llama_lora,
}


def build(name: str, *, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return FAMILIES[name](**settings)


def random_tokens(rows: int, length: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
