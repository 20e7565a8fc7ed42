"""What a training step learns from a batch: small objects, (model, batch, context) → LoopOutput."""
