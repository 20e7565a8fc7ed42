"""What `maskcap doctor` looks at before a long run: one file for each kind of check."""
