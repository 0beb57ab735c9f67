"""What the paths of a set are worth: the stage evaluate and its record."""
