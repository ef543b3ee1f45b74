"""The torchtune layer of models: folders of the hub in and out, one adapter that knows torchtune's decoder, generation
and tokenizers."""

from cot_components.models.folder import check_folder
from cot_components.models.hub import from_folder, tokenizer_node, with_weights
from cot_components.models.tokenizers import hf_tokenizer

__all__ = ["check_folder", "from_folder", "hf_tokenizer", "tokenizer_node", "with_weights"]
