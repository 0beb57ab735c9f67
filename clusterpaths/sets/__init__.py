"""A published set: written atomically, found, and read."""
