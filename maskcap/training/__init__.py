"""The LightningModule, optimizers, checkpoints and callbacks."""
