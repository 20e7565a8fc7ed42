"""The commands: one file each, and what they share in launch.py (Hydra, errors) and build.py (Lightning)."""
