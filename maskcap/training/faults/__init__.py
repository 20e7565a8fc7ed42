"""What goes wrong in a step: losses that are not finite, memory that does not suffice, workers that are killed."""
