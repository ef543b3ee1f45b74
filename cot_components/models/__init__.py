"""The torchtune layer of models: reading and writing Hugging Face folders, the adapter to torchtune's decoder,
generation and tokenizers."""

from cot_components.models.choose import check_folder
from cot_components.models.families.gpt2 import gpt2, gpt2_large, gpt2_medium, gpt2_small, gpt2_xl
from cot_components.models.gpt2_bpe import compact_tokenizer, gpt2_tokenizer
from cot_components.models.hub import from_folder, tokenizer_node, with_weights
from cot_components.models.reference import AdaptersOff, FrozenModel, TopKFile
from cot_components.models.tokenizers import hf_tokenizer

__all__ = [
    "AdaptersOff",
    "FrozenModel",
    "TopKFile",
    "check_folder",
    "compact_tokenizer",
    "from_folder",
    "gpt2",
    "gpt2_large",
    "gpt2_medium",
    "gpt2_small",
    "gpt2_tokenizer",
    "gpt2_xl",
    "hf_tokenizer",
    "tokenizer_node",
    "with_weights",
]
