"""Reading every record of a data set: what is wrong with each, and what the whole looks like. `maskcap check`."""
