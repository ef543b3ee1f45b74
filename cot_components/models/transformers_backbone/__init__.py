"""Decoders of `transformers` for folders that no family file fits. Besides `huggingface`, only this package imports
`transformers`, and only when needed (`pip install 'cot-components[hf]'`)."""
