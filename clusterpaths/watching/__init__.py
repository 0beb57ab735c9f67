"""Model files that arrive in a directory: which are complete, load, and were not announced yet."""
