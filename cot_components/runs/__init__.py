"""A run's folder: layout, log, checkpoints, and whether the run may be resumed. Independent of training."""
