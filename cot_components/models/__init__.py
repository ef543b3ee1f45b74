"""The torchtune layer of models: the one adapter that knows torchtune's decoder, generation, tokenizers and conversions."""
