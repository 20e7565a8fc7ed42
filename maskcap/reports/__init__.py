"""What a person looks at: figures of predictions and of a run's curves."""
