"""A run's folder: its layout, its log, its checkpoints, and whether it may go on. Knows nothing of training."""
