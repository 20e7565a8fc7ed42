"""maskcap: train models that turn a mask into a caption and a caption into a mask."""

__version__ = "0.1.0"
