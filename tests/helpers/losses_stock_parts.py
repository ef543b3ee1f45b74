"""What `test_losses_stock_recipe.py` gives a stock recipe: sizes, rows, a tokenizer asked only for its pad id."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

VOCAB = 64
SIZES = {
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "embed_dim": 16,
    "max_seq_len": 32,
    "intermediate_dim": 32,
}


class Tokenizer:
    pad_id = 0


class Rows(Dataset[dict[str, list[int]]]):
    """Four rows of different lengths whose first tokens are not supervised."""

    def __init__(self, tokenizer: Any = None) -> None:
        generator = torch.Generator().manual_seed(5)
        self.rows = []
        for length in (9, 14, 11, 20):
            tokens = torch.randint(1, VOCAB, (length,), generator=generator).tolist()
            self.rows.append({"tokens": tokens, "labels": [-100] * 3 + tokens[3:]})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]
