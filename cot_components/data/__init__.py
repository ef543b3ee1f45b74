"""From raw rows to batches of token ids: `read`, then `text`, then `rows`; plain numpy."""
