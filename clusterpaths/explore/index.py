"""One set in memory: its columns, and what is looked up often, worked out once."""
