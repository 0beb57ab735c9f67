"""What a set knows of one image."""
