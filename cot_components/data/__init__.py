"""Rows from anywhere to batches of token ids: `read`, then `text`, then `rows`; plain numpy."""
