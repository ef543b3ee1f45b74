"""Traces to text with roles: chat templates, tags, tokenizers of text."""
