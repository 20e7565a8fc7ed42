"""How many tokens an image costs, and where each one looks."""
