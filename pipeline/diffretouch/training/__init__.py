"""Training: losses, the objective, the loop, checkpoints, watching a run."""
