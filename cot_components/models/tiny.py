"""A tiny random Llama in hub layout (weights, config, tokenizer), from which every torchtune recipe can start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cot_components.models.adapter import adapt
from cot_components.models.export import save_pretrained
from cot_components.models.load import start_from_scratch

SHAPE = {
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "intermediate_dim": 128,
    "max_seq_len": 512,
}
"""Keyword arguments of `torchtune.models.llama3_2.llama3_2`, except the vocabulary."""


def tiny_llama(vocab_size: int, *, seed: int = 0, **shape: Any) -> Any:
    """A randomly initialised Llama-3.2 of `SHAPE`, adapted."""
    from torchtune.models.llama3_2 import llama3_2

    torch.manual_seed(seed)
    model = llama3_2(vocab_size=vocab_size, **{**SHAPE, **shape})
    start_from_scratch(model)
    return adapt(model)


def write_tiny_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random checkpoint with its byte-level tokenizer in hub layout."""
    from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
    from cot_components.models.tokenizers import as_text_tokenizer, hf_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_byte_tokenizer(folder)
    text = as_text_tokenizer(hf_tokenizer(str(folder)))
    model = tiny_llama(text.vocab_size, seed=seed)
    return save_pretrained(model, folder, stop_ids=text.stop_ids, pad_id=text.pad_id)
