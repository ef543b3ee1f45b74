"""The torchtune layer of models: reading and writing Hugging Face folders, the adapter to torchtune's decoder,
generation and tokenizers."""

from cot_components.models.adapter import adapt, logits
from cot_components.models.choose import check_folder
from cot_components.models.families.gpt2 import gpt2, gpt2_large, gpt2_medium, gpt2_small, gpt2_xl
from cot_components.models.generate import decode_with
from cot_components.models.gpt2_bpe import compact_tokenizer, gpt2_tokenizer
from cot_components.models.hub import from_folder, tokenizer_node, with_weights
from cot_components.models.reference import AdaptersOff, FrozenModel, TopKFile
from cot_components.models.tiny import tiny_llama, write_tiny_checkpoint
from cot_components.models.tokenizers import hf_tokenizer

__all__ = [
    "AdaptersOff",
    "FrozenModel",
    "TopKFile",
    "adapt",
    "check_folder",
    "compact_tokenizer",
    "decode_with",
    "from_folder",
    "gpt2",
    "gpt2_large",
    "gpt2_medium",
    "gpt2_small",
    "gpt2_tokenizer",
    "gpt2_xl",
    "hf_tokenizer",
    "logits",
    "tiny_llama",
    "tokenizer_node",
    "with_weights",
    "write_tiny_checkpoint",
]
