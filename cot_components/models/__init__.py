"""The torchtune layer of models: the one adapter that knows torchtune's decoder, generation, tokenizers and
conversions."""

from cot_components.models.tokenizers import hf_tokenizer

__all__ = ["hf_tokenizer"]
