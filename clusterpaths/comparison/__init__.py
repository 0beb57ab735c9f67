"""What changed from one set to another."""
