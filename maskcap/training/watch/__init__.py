"""Ranks that watch each other, so that one that is killed, stopped or stuck ends the run and is named."""
