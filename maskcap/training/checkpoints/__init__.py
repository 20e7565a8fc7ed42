"""Checkpoints that survive: what is on disk, how it is written, read, found again and checked."""
