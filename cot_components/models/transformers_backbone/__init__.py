"""Decoders of `transformers` for folders that no family file fits: the only room that imports it, and only when one is
asked for (`pip install 'cot-components[hf]'`)."""
