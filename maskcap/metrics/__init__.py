"""How good captions and masks are, over a whole split."""
