"""Text to rows of token ids, and rows to steps and batches."""
