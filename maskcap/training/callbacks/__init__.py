"""One small Lightning callback a file; each reads what the module exposes and writes into the run folder."""
