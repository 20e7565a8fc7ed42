"""Sweeps over settings with Optuna: `-m hydra/sweeper=optuna`, a study that survives, tables, the best as a file."""
