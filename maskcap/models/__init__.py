"""The model: encode an image, describe a region, segment a phrase."""
